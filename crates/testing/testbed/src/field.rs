//! Field errors, as validation reports them in `details.causes` of a 422 response.

use serde_json::Value;

/// The reason of a field error, named as in `details.causes[].reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Malformed or out of range.
    Invalid,
    /// Missing.
    Required,
    /// Not one of the supported values.
    NotSupported,
    /// Not allowed in this place.
    Forbidden,
    /// Longer than allowed.
    TooLong,
    /// More items than allowed.
    TooMany,
    /// Must be unique and is not.
    Duplicate,
}

impl Cause {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Duplicate => "FieldValueDuplicate",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid value",
            Self::Required => "Required value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Duplicate => "Duplicate value",
        }
    }
}

/// An error in one field of an object.
#[derive(Clone, Debug)]
pub struct FieldError {
    pub(crate) cause: Cause,
    pub(crate) field: String,
    value: Option<Value>,
    detail: String,
}

impl FieldError {
    /// An error in a field, with the value of the field.
    pub fn new(cause: Cause, field: impl Into<String>, value: &Value, detail: impl Into<String>) -> Self {
        Self {
            cause,
            field: field.into(),
            value: Some(value.clone()),
            detail: detail.into(),
        }
    }

    /// A malformed field.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: impl Into<String>) -> Self {
        Self::new(Cause::Invalid, field, value, detail)
    }

    /// An error in a field, without its value.
    pub fn bare(cause: Cause, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            cause,
            field: field.into(),
            value: None,
            detail: detail.into(),
        }
    }

    /// A missing field.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::bare(Cause::Required, field, detail)
    }

    /// A value outside a fixed set.
    pub fn not_supported(field: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|v| format!("{v:?}")).collect();
        Self::new(
            Cause::NotSupported,
            field,
            value,
            format!("supported values: {}", known.join(", ")),
        )
    }

    pub(crate) fn body(&self) -> String {
        let mut body = self.cause.text().to_owned();
        if let Some(value) = &self.value {
            body.push_str(": ");
            body.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}
