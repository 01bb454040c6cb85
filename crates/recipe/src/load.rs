//! From TOML text and `--set` overrides to a validated [`Recipe`].

use crate::Recipe;
use std::path::Path;
use thiserror::Error;

/// Why a recipe was refused. Each message names the key and the fix.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// The file could not be read.
    #[error(
        "cannot read recipe {path}: {reason}; give the path of a .toml file such as recipes/ance.toml"
    )]
    Unreadable {
        /// Path as given.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// The text is not TOML, or a key has the wrong type or name.
    #[error("recipe {origin}, key `{}`: {}", .key.replace(char::is_control, " "), .reason.trim().replace(char::is_control, " "))]
    Key {
        /// File name or `--set`.
        origin: String,
        /// Dotted path of the key.
        key: String,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// The text is not TOML at all.
    #[error("recipe {origin} is not valid TOML: {}", .reason.trim().replace(char::is_control, " "))]
    Syntax {
        /// File name.
        origin: String,
        /// Parser's words, with line and column.
        reason: String,
    },
    /// Each key is fine alone, but their combination is impossible.
    #[error("recipe key `{key}`: {reason}")]
    Impossible {
        /// Dotted path of the key to change.
        key: &'static str,
        /// What is wrong, and the fix.
        reason: String,
    },
}

impl Recipe {
    /// Reads a recipe file and applies `--set key=value` overrides, in order.
    ///
    /// # Errors
    /// [`RecipeError`], naming the key and the fix.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|e| RecipeError::Unreadable {
            path: path.display().to_string(),
            reason: e.to_string(),
        })?;
        Self::from_toml(&text, &path.display().to_string(), overrides)
    }

    /// Parses TOML text; `origin` names it in messages.
    ///
    /// # Errors
    /// [`RecipeError`], naming the key and the fix.
    pub fn from_toml(text: &str, origin: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let mut table: toml::Table =
            text.parse()
                .map_err(|e: toml::de::Error| RecipeError::Syntax {
                    origin: origin.to_owned(),
                    reason: e.to_string(),
                })?;
        // The file alone first, so that a typo there is not blamed on `--set`.
        deserialize(table.clone(), origin)?;
        for assignment in overrides {
            apply_override(&mut table, assignment)?;
        }
        let recipe = deserialize(
            table,
            if overrides.is_empty() {
                origin
            } else {
                "--set"
            },
        )?;
        recipe.validate()?;
        Ok(recipe)
    }
}

fn deserialize(table: toml::Table, origin: &str) -> Result<Recipe, RecipeError> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
        let path = e.path().to_string();
        let reason = e.inner().message().to_owned();
        let (key, reason) = explain(&path, reason);
        RecipeError::Key {
            origin: origin.to_owned(),
            key,
            reason,
        }
    })
}

/// Turns serde's `unknown field` into the full key and the nearest known name.
fn explain(path: &str, reason: String) -> (String, String) {
    let quoted = |s: &str| s.split('`').nth(1).map(str::to_owned);
    let Some(rest) = reason.strip_prefix("unknown field ") else {
        let words = in_words(&reason);
        return (path.to_owned(), words.unwrap_or(reason));
    };
    let unknown = quoted(rest).unwrap_or_default();
    let known: Vec<&str> = rest.split('`').skip(3).step_by(2).collect();
    let parent = path.rsplit_once('.').map_or("", |(p, _)| p);
    let key = match (path.ends_with(&unknown), parent.is_empty()) {
        (true, _) => path.to_owned(),
        (false, _) if path == "." || path.is_empty() => unknown.clone(),
        (false, _) => format!("{path}.{unknown}"),
    };
    let nearest = known
        .iter()
        .map(|k| (edit_distance(&unknown, k), *k))
        .min()
        .filter(|(d, k)| *d <= k.len() / 2);
    let fix = match nearest {
        Some((_, name)) => format!("unknown key; did you mean `{name}`?"),
        None => format!("unknown key; known here: {}", known.join(", ")),
    };
    (key, fix)
}

/// Turns serde's `invalid type: string "abc", expected f64` into words for those who
/// write recipes, not Rust.
fn in_words(reason: &str) -> Option<String> {
    let rest = reason
        .strip_prefix("invalid type: ")
        .or_else(|| reason.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let quoted = found.find(['`', '"']);
    let value = quoted.map_or(found, |at| found[at..].trim_matches('`'));
    let wanted = match expected {
        "usize" | "u64" => "a whole number of at least 0",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("struct ") => "a section of keys",
        _ => expected,
    };
    // TOML ends at i64: a longer number reached us as the text of `--set`.
    let digits = value.trim_matches('"');
    let long = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if long && matches!(expected, "usize" | "u64") && digits.parse::<i64>().is_err() {
        return Some(format!("{digits} is too large; write at most {}", i64::MAX));
    }
    Some(format!("must be {wanted}, not {value}"))
}

/// Levenshtein distance, for suggestions only.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// Applies one `key=value`; the value is TOML, or a bare word taken as text.
fn apply_override(table: &mut toml::Table, assignment: &str) -> Result<(), RecipeError> {
    let fail = |key: &str, reason: &str| RecipeError::Key {
        origin: "--set".to_owned(),
        key: key.to_owned(),
        reason: reason.to_owned(),
    };
    let (key, text) = assignment
        .split_once('=')
        .ok_or_else(|| fail(assignment, "write --set section.key=value"))?;
    let (key, text) = (key.trim(), text.trim());
    let value = format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut at = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.to_owned(), value);
            return Ok(());
        }
        at = at
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| fail(key, "a part of this key is a value, not a section"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        Recipe::from_toml(text, "r.toml", &overrides)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_empty_recipe_is_the_default() {
        let recipe = Recipe::from_toml("", "r.toml", &[]).unwrap();
        assert_eq!(recipe, Recipe::default());
    }

    #[test]
    fn a_typo_is_refused_with_its_path_and_the_nearest_key() {
        let message = refused("[train]\nlerning_rate = 1e-5\n", &[]);
        assert_eq!(
            message,
            "recipe r.toml, key `train.lerning_rate`: unknown key; did you mean `learning_rate`?"
        );
    }

    #[test]
    fn an_unknown_section_lists_the_known_ones() {
        let message = refused("[zzzzzzzzzzzz]\n", &[]);
        assert!(message.contains("`zzzzzzzzzzzz`"), "{message}");
        assert!(message.contains("train"), "{message}");
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let message = refused("[train]\nbatch_size = \"many\"\n", &[]);
        assert!(message.contains("`train.batch_size`"), "{message}");
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_in_the_words_of_a_recipe() {
        for (set, said) in [
            (
                "train.batch_size=-3",
                "must be a whole number of at least 0, not -3",
            ),
            (
                "mining.depth=1e9",
                "must be a whole number of at least 0, not 1000000000.0",
            ),
            (
                "train.max_steps=\"7\"",
                "must be a whole number of at least 0, not \"7\"",
            ),
            (
                "train.max_steps=18446744073709551615",
                "18446744073709551615 is too large; write at most 9223372036854775807",
            ),
            ("train.learning_rate=abc", "must be a number, not \"abc\""),
            (
                "mining.max_positive_ratio=on",
                "must be a number, not \"on\"",
            ),
            ("train.in_batch=2", "must be a boolean, not 2"),
            ("train=5", "must be a section of keys, not 5"),
        ] {
            let (key, _) = set.split_once('=').unwrap();
            let expected = format!("recipe --set, key `{key}`: {said}");
            assert_eq!(refused("", &[set]), expected);
        }
    }

    #[test]
    fn overrides_are_typed_and_blamed_on_set() {
        let set = [
            "train.learning_rate=5e-5".to_owned(),
            "refresh.when=never".to_owned(),
        ];
        let recipe = Recipe::from_toml("", "r.toml", &set).unwrap();
        assert_eq!(recipe.train.learning_rate, 5e-5);
        assert_eq!(recipe.refresh.when, crate::RefreshWhen::Never);
        let message = refused("", &["train.learnin_rate=1"]);
        assert!(
            message.starts_with("recipe --set, key `train.learnin_rate`"),
            "{message}"
        );
        assert!(refused("", &["seed"]).contains("section.key=value"));
    }

    #[test]
    fn text_and_json_forms_round_trip() {
        let recipe = Recipe::default();
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(Recipe::from_toml(&text, "r.toml", &[]).unwrap(), recipe);
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), recipe);
    }

    #[test]
    fn a_key_with_control_characters_is_told_on_one_line() {
        assert_eq!(
            refused("\"a\\n\\u001b[2J\" = 1\n", &[]),
            "recipe r.toml, key `a  [2J`: unknown key; known here: name, seed, data, model, index, mining, refresh, train, fleet"
        );
    }

    #[test]
    fn broken_toml_is_one_line() {
        let message = refused("[train\n", &[]);
        assert!(
            message.starts_with("recipe r.toml is not valid TOML"),
            "{message}"
        );
        assert!(!message.contains('\n'));
    }
}
