//! What a faiss factory string says: lists, codes, graph; and the traps in it.

use crate::IndexError;

/// faiss's k-means looks at no more than 256 rows a centroid.
const ROWS_PER_CENTROID: usize = 256;
/// Rows that train an 8-bit product quantizer: 256 centroids.
const QUANTIZER_ROWS: usize = ROWS_PER_CENTROID * 256;

/// A factory string taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Factory {
    /// The string for faiss: polysemous training, which takes minutes and serves no search we make, is switched off
    /// by appending `np` to product quantizers.
    pub description: String,
    /// Inverted lists of an IVF index.
    pub lists: Option<usize>,
    /// Centroids of a product quantizer's subspace.
    pub centroids: Option<usize>,
    /// Whether it has an HNSW graph.
    pub graph: bool,
    /// Whether a search compares the query with every vector as it is.
    pub exhaustive: bool,
}

impl Factory {
    /// Takes apart what matters here; faiss itself refuses what it does not know.
    pub fn parse(text: &str) -> Result<Factory, IndexError> {
        let refuse = |reason: &str| IndexError::Factory {
            factory: text.to_owned(),
            reason: reason.to_owned(),
        };
        if text.trim().is_empty() || text.contains(['\0', ' ']) {
            return Err(refuse(
                "write a faiss factory string without spaces, such as Flat or IVF1024,Flat",
            ));
        }
        if text.contains("IDMap") {
            return Err(refuse(
                "rows are numbered by the index itself, remove IDMap",
            ));
        }
        if text.contains("_PQ") && text.contains("HNSW") {
            return Err(refuse("write HNSW32,PQ16 and not HNSW32_PQ16"));
        }
        let mut components: Vec<String> = text.split(',').map(str::to_owned).collect();
        let lists = components
            .iter()
            .find_map(|component| leading_number(component.strip_prefix("IVF")?));
        let mut centroids = None;
        for component in &mut components {
            let Some(bits) = quantizer_bits(component) else {
                continue;
            };
            let shift = u32::try_from(bits).unwrap_or(u32::MAX);
            centroids = Some(
                1usize
                    .checked_shl(shift)
                    .ok_or_else(|| refuse("a code has too many bits"))?,
            );
            if is_plain_quantizer(component) {
                component.push_str("np");
            }
        }
        Ok(Factory {
            description: components.join(","),
            lists,
            centroids,
            graph: text.contains("HNSW"),
            exhaustive: text == "Flat",
        })
    }

    /// Refuses a training set that is smaller than the number of centroids.
    pub fn check_training(&self, text: &str, rows: usize) -> Result<(), IndexError> {
        let needed = self.lists.unwrap_or(1).max(self.centroids.unwrap_or(1));
        match rows < needed {
            true => Err(IndexError::TooFewRows {
                factory: text.to_owned(),
                rows,
                needed,
            }),
            false => Ok(()),
        }
    }

    /// How many of `rows` rows training can use: what k-means and the quantizer look at.
    pub fn training_rows(&self, rows: usize) -> usize {
        rows.min((self.lists.unwrap_or(0) * ROWS_PER_CENTROID).max(QUANTIZER_ROWS))
    }
}

fn leading_number(text: &str) -> Option<usize> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..digits].parse().ok()
}

/// Bits of each code of a component `PQ16`, `PQ16x4`, `PQ16x4fs`, `PQ16np`; 8 unless said.
fn quantizer_bits(component: &str) -> Option<usize> {
    let rest = component.strip_prefix("PQ")?;
    leading_number(rest)?;
    match rest.split_once('x') {
        Some((_, bits)) => leading_number(bits),
        None => Some(8),
    }
}

/// Whether the component is `PQ<m>` or `PQ<m>x<bits>` and no more.
fn is_plain_quantizer(component: &str) -> bool {
    component.strip_prefix("PQ").is_some_and(|rest| {
        let mut numbers = rest.splitn(2, 'x');
        numbers.all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Factory {
        Factory::parse(text).unwrap()
    }

    #[test]
    fn polysemous_training_is_switched_off() {
        for (given, description) in [
            ("PQ16", "PQ16np"),
            ("IVF64,PQ8x4", "IVF64,PQ8x4np"),
            ("OPQ16,IVF64,PQ16", "OPQ16,IVF64,PQ16np"),
            ("HNSW32,PQ16", "HNSW32,PQ16np"),
            ("IVF64,PQ16np", "IVF64,PQ16np"),
            ("IVF64,PQ16x4fs", "IVF64,PQ16x4fs"),
            ("IVF64,PQ16x4fsr", "IVF64,PQ16x4fsr"),
            ("IVF64,PQ16+16", "IVF64,PQ16+16"),
            ("IVF64,PQ16,RFlat", "IVF64,PQ16np,RFlat"),
            ("Flat", "Flat"),
        ] {
            assert_eq!(parsed(given).description, description);
        }
    }

    #[test]
    fn lists_codes_and_graphs_are_seen() {
        assert_eq!(parsed("IVF256_HNSW32,Flat").lists, Some(256));
        assert!(parsed("IVF256_HNSW32,Flat").graph);
        assert_eq!(parsed("OPQ8_32,IVF16,PQ8x4fs").centroids, Some(16));
        assert_eq!(parsed("SQ8").centroids, None);
        assert!(
            parsed("Flat").exhaustive
                && !parsed("IVF8,Flat").exhaustive
                && !parsed("PCA8,Flat").exhaustive
        );
    }

    #[test]
    fn training_needs_a_row_a_centroid() {
        let few = |text: &str, rows| parsed(text).check_training(text, rows).is_err();
        assert!(few("IVF64,Flat", 63) && !few("IVF64,Flat", 64));
        assert!(few("IVF4,PQ8", 255) && !few("IVF4,PQ8x4", 16));
        assert!(!few("Flat", 1) && !few("HNSW8", 1));
        assert_eq!(parsed("IVF1024,Flat").training_rows(1 << 30), 1 << 18);
        assert_eq!(parsed("PQ8").training_rows(100), 100);
    }

    #[test]
    fn strings_we_do_not_take() {
        for text in ["", " ", "IDMap,Flat", "IVF8, Flat", "HNSW32_PQ16"] {
            assert!(Factory::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
