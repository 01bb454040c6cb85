//! Student's t distribution by the regularised incomplete beta function (Numerical Recipes §6.4).

/// Two-sided p value of `t` with `df` degrees of freedom: `I_{df/(df+t²)}(df/2, 1/2)`.
pub(crate) fn two_sided_p(t: f64, df: f64) -> f64 {
    if t.is_infinite() {
        0.0
    } else {
        incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
    }
}

/// The regularised incomplete beta function `I_x(a, b)`.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front =
        (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    // The continued fraction converges fast on this side of the mean only.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

/// Continued fraction of the incomplete beta function by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..1000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            fraction *= c * d;
        }
        if (fraction / before - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// ln Γ(x) for x > 0 by Lanczos' approximation (g = 7, 9 coefficients).
fn ln_gamma(x: f64) -> f64 {
    const LANCZOS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let series = (1..9).fold(LANCZOS[0], |sum, i| sum + LANCZOS[i] / (x + i as f64));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + series.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.t.sf(t, df) * 2`, scipy 1.x.
    #[test]
    fn agrees_with_scipy() {
        let scipy = include_str!("../tests/data/student_t.tsv");
        let mut rows = 0;
        for line in scipy.lines().skip(1) {
            let values: Vec<f64> = line
                .split('\t')
                .map(|value| value.parse().unwrap())
                .collect();
            let p = two_sided_p(values[0], values[1]);
            assert!(
                (p - values[2]).abs() <= 1e-10 * values[2] + 1e-300,
                "t {} df {}: {p} is not {}",
                values[0],
                values[1],
                values[2]
            );
            rows += 1;
        }
        assert!(rows > 30);
    }
}
