//! Where two recipes differ, key by key.
//!
//! Refuses: judging whether they may; that is `replay`'s and `resume`'s.

use anyhow::Result;
use quarry_recipe::Recipe;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A key with two values.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Dotted path of the key.
    pub key: String,
    /// Its value in the recipe at hand, for people to read.
    pub here: String,
    /// Its value in the other one.
    pub there: String,
}

/// Every key whose value in `here` is not the one in `there`, in order.
///
/// # Errors
/// If a recipe cannot be written down.
pub fn differences(here: &Recipe, there: &Recipe) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let (here, there) = (serde_json::to_value(here)?, serde_json::to_value(there)?);
    compare("", &here, &there, &mut found);
    Ok(found)
}

/// Whether `key` is `section` or a part of it.
#[must_use]
pub fn lies_in(key: &str, section: &str) -> bool {
    let rest = key.strip_prefix(section);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn compare(path: &str, here: &Value, there: &Value, found: &mut Vec<Difference>) {
    if here == there {
        return;
    }
    let (Value::Object(ours), Value::Object(theirs)) = (here, there) else {
        found.push(Difference {
            key: path.to_owned(),
            here: shown(here),
            there: shown(there),
        });
        return;
    };
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let inner = match path {
            "" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        let side = |of: &Map<String, Value>| of.get(key).cloned().unwrap_or_default();
        compare(&inner, &side(ours), &side(theirs), found);
    }
}

/// A value as it would be written into a recipe.
fn shown(value: &Value) -> String {
    match value.as_f64() {
        // JSON knows f64 only; 0.95 of an f32 would be 0.949999988079071 there.
        Some(wide) if value.is_f64() && f64::from(wide as f32) == wide => {
            format!("{}", wide as f32)
        }
        _ if value.is_null() => "unset".to_owned(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_differs_is_named_with_both_values() {
        let mut here = Recipe::default();
        assert_eq!(differences(&here, &Recipe::default()).unwrap(), []);
        here.train.weight_decay = 0.5;
        here.mining.max_positive_ratio = 0.9;
        here.model.normalize = Some(true);
        let found = differences(&here, &Recipe::default()).unwrap();
        let found: Vec<(&str, &str, &str)> = found
            .iter()
            .map(|d| (d.key.as_str(), d.here.as_str(), d.there.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("mining.max_positive_ratio", "0.9", "0.95"),
                ("model.normalize", "true", "unset"),
                ("train.weight_decay", "0.5", "0.01"),
            ]
        );
    }

    #[test]
    fn a_key_lies_in_itself_and_in_its_sections() {
        assert!(lies_in("train.dropout.hidden", "train.dropout"));
        assert!(lies_in("refresh", "refresh"));
        assert!(!lies_in("refresh_rate", "refresh"));
        assert!(!lies_in("train", "train.dropout"));
    }
}
