//! Which rows of which parts make up a tile of an exact search.
//!
//! Refuses a gap: the columns of a tile are rows one after the other.

use std::ops::Range;

use crate::part::Part;

/// Rows of a tile: pieces of neighbouring parts.
#[derive(Debug, PartialEq)]
pub(crate) struct Stretch {
    pub first_row: i64,
    /// The part, and which of its rows.
    pub pieces: Vec<(usize, Range<usize>)>,
}

/// Stretches of at most `most` rows without a gap. Small parts share one: each stretch costs a top-k and a merge.
pub(crate) fn stretches(parts: &[Part], most: usize) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    let (mut room, mut due) = (0, 0);
    for (index, part) in parts.iter().enumerate() {
        let mut start = 0;
        while start < part.len() {
            let row = i64::from(part.first_row()) + start as i64;
            if room == 0 || row != due {
                room = most;
                found.push(Stretch {
                    first_row: row,
                    pieces: Vec::new(),
                });
            }
            let rows = start..part.len().min(start + room);
            (start, room, due) = (rows.end, room - rows.len(), row + rows.len() as i64);
            if let Some(stretch) = found.last_mut() {
                stretch.pieces.push((index, rows));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn a_stretch_ends_at_its_bound_and_at_a_gap() {
        let part = |first_row, rows: usize| Part::new(first_row, 1, vec![f16::ONE; rows]).unwrap();
        let parts = [part(3, 2), part(5, 4), part(9, 1), part(20, 3)];
        let stretch = |first_row, pieces: &[(usize, Range<usize>)]| Stretch {
            first_row,
            pieces: pieces.to_vec(),
        };
        let expected = [
            stretch(3, &[(0, 0..2), (1, 0..3)]),
            stretch(8, &[(1, 3..4), (2, 0..1)]),
            stretch(20, &[(3, 0..3)]),
        ];
        assert_eq!(stretches(&parts, 5), expected);
        assert_eq!(stretches(&parts, 100).len(), 2);
    }
}
