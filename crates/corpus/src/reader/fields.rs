//! What the formats share in their fields: ids, columns, JSON records.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};

/// An id in JSON: a string, or an integer as some collections have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
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

/// A JSON object inside a record: a derived struct alone would also take an array of its fields' values.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
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

/// One JSON object from a line.
pub(crate) fn json<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    // Said of any other value: what a parser expects of its type would explain less.
    if !line.trim_start().starts_with('{') {
        return Err("it is not a JSON object".into());
    }
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
