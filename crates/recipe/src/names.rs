//! Names that become parts of paths: that of the run and those of its splits.
//! Refuses whatever could lead out of the folder it is meant for.

use crate::validate::require;
use crate::{Recipe, RecipeError};

impl Recipe {
    /// Checks the run's name and the splits.
    pub(crate) fn validate_names(&self) -> Result<(), RecipeError> {
        let data = &self.data;
        require(
            !data.train.is_empty() && !data.dev.is_empty(),
            "data.dev",
            "name the train and the dev split; dev scores every generation",
        )?;
        require(
            is_component(&self.name),
            "name",
            &format!(
                "{:?} becomes the name of a folder, so write it without slashes and control characters, the first character no dot",
                self.name
            ),
        )?;
        for (key, name) in [
            ("data.train", &data.train),
            ("data.dev", &data.dev),
            ("data.test", &data.test),
        ] {
            let none = key == "data.test" && name.is_empty();
            require(
                none || is_plain(name),
                key,
                &format!(
                    "{name:?} becomes part of a path, so write letters, digits, dots, hyphens and underscores, the first no dot"
                ),
            )?;
        }
        require(
            data.train != data.dev && data.dev != data.test && data.train != data.test,
            "data.dev",
            "train, dev and test must be different splits",
        )
    }
}

/// Whether a folder of this name lies where it is put, on any system.
fn is_component(name: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | '\\') || c.is_control();
    !name.is_empty() && !name.starts_with('.') && !name.chars().any(odd)
}

/// The rule by which `quarry_corpus::prepare` takes the names of splits.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut Recipe)) -> String {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        recipe.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in [
            "../../evil",
            "/tmp/evil",
            "a/b",
            "..",
            ".hidden",
            "",
            "a\\b",
            "a\n",
        ] {
            let said = refused(|r| r.name = name.to_owned());
            assert!(said.starts_with("recipe key `name`: "), "{name:?}: {said}");
            assert!(!said.contains(char::is_control), "{said:?}");
        }
        for name in ["msmarco-v1.1_seed-2", "zweite Übung", "检索"] {
            let named = Recipe {
                name: name.to_owned(),
                ..Recipe::default()
            };
            named.validate().unwrap();
        }
    }

    #[test]
    fn a_split_that_leads_elsewhere_is_named_as_it_was_written() {
        let said = refused(|r| r.data.dev = "../dev".to_owned());
        assert!(
            said.starts_with("recipe key `data.dev`: \"../dev\" "),
            "{said}"
        );
        assert!(refused(|r| r.data.train = "a b".to_owned()).contains("`data.train`"));
        assert!(refused(|r| r.data.test = "..".to_owned()).contains("`data.test`"));
        let mut recipe = Recipe::default();
        recipe.data.test = String::new();
        recipe.validate().unwrap();
    }
}
