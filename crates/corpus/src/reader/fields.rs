//! What the formats share in their fields: ids, columns, JSON records.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Visitor};

/// An id in JSON: a string, or an integer as some collections have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an id (a string or an integer)")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
                checked_id(text).map(Id).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

/// An id that can stand in a column: not empty, without control characters.
pub(crate) fn checked_id(id: &str) -> Result<String, String> {
    if id.trim().is_empty() {
        Err("its id is empty".into())
    } else if id.chars().any(char::is_control) {
        Err(format!("its id {id:?} holds a control character"))
    } else {
        Ok(id.to_string())
    }
}

/// One JSON value from a line.
pub(crate) fn json<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| json_reason(&error))
}

/// serde_json's message with the column; its line is that of the record alone, and would mislead.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => format!("{} (column {})", &message[..end], error.column()),
        None => message,
    }
}

/// Exactly `N` columns separated by tabs.
pub(crate) fn columns<const N: usize>(line: &str) -> Result<[&str; N], String> {
    let columns: Vec<&str> = line.split('\t').collect();
    let found = columns.len();
    columns
        .try_into()
        .map_err(|_| format!("it has {found} tab-separated columns and not {N}"))
}

/// A relevance grade.
pub(crate) fn grade(text: &str) -> Result<i32, String> {
    (text.trim().parse()).map_err(|_| format!("its grade {text:?} is no integer"))
}
