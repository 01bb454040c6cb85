//! Score and row as one integer, whose order is that of [`Hit::order`].
//!
//! Owns: the form of these keys. Refuses: deciding which are the best.

use tch::{Kind, Tensor};

use crate::{Hit, IndexError};

/// Keys of scores `[Q, N]` whose columns are the rows from `first_row` on.
pub(crate) fn encode_all(scores: &Tensor, first_row: i64) -> Result<Tensor, IndexError> {
    let columns = scores.size2()?.1;
    let rows = Tensor::f_arange_start(
        first_row,
        first_row + columns,
        (Kind::Int64, scores.device()),
    )?;
    encode(scores, &rows)
}

/// One integer for score and row, greater = better: the f32's bits in sortable form above, the row's complement below.
pub(crate) fn encode(scores: &Tensor, rows: &Tensor) -> Result<Tensor, IndexError> {
    // + 0.0 turns −0 into 0: they are one score.
    let bits = scores
        .f_add_scalar(0.0)?
        .f_view_dtype(Kind::Int)?
        .f_to_kind(Kind::Int64)?;
    // Negative floats sort backwards by their bits: flip all but the sign.
    let flip = bits
        .f_lt(0)?
        .f_to_kind(Kind::Int64)?
        .f_mul_scalar(i64::from(i32::MAX))?;
    let sortable = bits.f_bitwise_xor_tensor(&flip)?;
    let complement = rows.f_neg()?.f_add_scalar(i64::from(u32::MAX))?;
    Ok(sortable.f_mul_scalar(1i64 << 32)?.f_add(&complement)?)
}

pub(crate) fn decode(key: i64) -> Hit {
    let sortable = (key >> 32) as i32;
    let bits = if sortable < 0 {
        sortable ^ i32::MAX
    } else {
        sortable
    };
    Hit {
        row: u32::MAX - key as u32,
        score: f32::from_bits(bits as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_hits_do() {
        let scores = [
            -3.5f32,
            -1e-40,
            -0.0,
            0.0,
            1e-40,
            0.25,
            7.0,
            f32::MAX,
            f32::MIN,
        ];
        let rows: Vec<i64> = vec![5, 0, 3, 2, 1, 4_000_000_000, 6, 7, 8];
        let keys = encode(&Tensor::from_slice(&scores), &Tensor::from_slice(&rows)).unwrap();
        let mut keys = Vec::<i64>::try_from(keys).unwrap();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let decoded: Vec<Hit> = keys.into_iter().map(decode).collect();
        let mut hits: Vec<Hit> = scores
            .iter()
            .zip(&rows)
            .map(|(score, row)| Hit {
                row: *row as u32,
                score: *score,
            })
            .collect();
        hits.sort_unstable_by(Hit::order);
        assert_eq!(decoded, hits);
    }
}
