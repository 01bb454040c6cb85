//! Plain-text tables: first column left, the rest right.

/// Lays out `rows` under `header`, columns two spaces apart.
#[must_use]
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&widths, header.iter().copied());
    text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
    text.push('\n');
    for row in rows {
        text.push_str(&line(&widths, row.iter().map(String::as_str)));
    }
    text
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (i, (width, cell)) in widths.iter().zip(cells).enumerate() {
        let pad = width.saturating_sub(cell.chars().count());
        if i == 0 {
            text.push_str(cell);
            text.push_str(&" ".repeat(pad));
        } else {
            text.push_str("  ");
            text.push_str(&" ".repeat(pad));
            text.push_str(cell);
        }
    }
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let text = super::render(
            &["system", "mrr@10"],
            &[
                vec!["bm25".into(), "0.8".into()],
                vec!["zero-shot".into(), "0.71".into()],
            ],
        );
        assert_eq!(
            text,
            "system     mrr@10\n-----------------\nbm25          0.8\nzero-shot    0.71\n"
        );
    }
}
