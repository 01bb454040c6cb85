//! What a conversion from the wire refuses, and how it says so.

use thiserror::Error;

/// A message that does not mean anything: names the message and the field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("message {message}, field `{field}`: {reason}")]
pub struct ConversionError {
    /// Message of `quarry.v1`.
    pub message: &'static str,
    /// Field of the message.
    pub field: &'static str,
    /// What is wrong, and what was expected.
    pub reason: String,
}

impl ConversionError {
    /// A refusal of `field` of `message`.
    pub fn new(message: &'static str, field: &'static str, reason: impl Into<String>) -> Self {
        Self {
            message,
            field,
            reason: reason.into(),
        }
    }
}

/// The value of a field that protobuf cannot mark as required.
pub(crate) fn required<T>(
    value: Option<T>,
    message: &'static str,
    field: &'static str,
) -> Result<T, ConversionError> {
    value.ok_or_else(|| ConversionError::new(message, field, "is missing"))
}

/// Converts each element of a repeated field; the first refusal wins.
pub(crate) fn all<S, T: TryFrom<S, Error = ConversionError>>(
    values: Vec<S>,
) -> Result<Vec<T>, ConversionError> {
    values.into_iter().map(T::try_from).collect()
}

/// Converts an optional field.
pub(crate) fn optional<S, T: TryFrom<S, Error = ConversionError>>(
    value: Option<S>,
) -> Result<Option<T>, ConversionError> {
    value.map(T::try_from).transpose()
}
