//! JSON objects with typed access to their keys, for files and for HTTP requests.

use std::fmt;

use serde_json::{Map, Value};

/// The length to which an error message shortens a value, in characters.
const MAX_SHOWN: usize = 60;

/// A JSON object. A key with the value null counts as absent.
pub struct JsonObject(Map<String, Value>);

/// Malformed JSON, or a key with a value that is absent or invalid.
#[derive(Debug, PartialEq, Eq)]
pub struct JsonError(String);

impl JsonError {
    /// The error of a value that is not as `expected` ("a number", "an array of strings").
    pub fn invalid(key: impl fmt::Display, expected: &str, value: &Value) -> Self {
        let mut shown = value.to_string();
        if let Some((end, _)) = shown.char_indices().nth(MAX_SHOWN) {
            shown.truncate(end);
            shown.push('…');
        }
        Self(format!("{key} must be {expected}, got {shown}"))
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JsonError {}

impl JsonObject {
    /// Errors unless the bytes are a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(JsonError("not a JSON object".to_string())),
            Err(error) => Err(JsonError(format!("not valid JSON: {error}"))),
        }
    }

    /// Errors where a key is not in `known`.
    pub fn reject_unknown(&self, known: &[&str]) -> Result<(), JsonError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(JsonError(format!(
                "unknown field {key:?}; the known fields are {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// The keys and values, null included.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A required integer >= 0.
    pub fn integer(&self, key: &str) -> Result<u64, JsonError> {
        required(key, self.get_integer(key)?)
    }

    /// An optional integer >= 0.
    pub fn get_integer(&self, key: &str) -> Result<Option<u64>, JsonError> {
        self.get_integer_from(key, 0)
    }

    /// An optional integer >= `min`.
    pub fn get_integer_from(&self, key: &str, min: u64) -> Result<Option<u64>, JsonError> {
        let expected = format!("a whole number >= {min}");
        let convert = |value: &Value| as_integer(value).filter(|number| *number >= min);
        self.get_as(key, &expected, convert)
    }

    /// An optional seed: any integer, of which a negative one is taken modulo 2^64.
    pub fn get_seed(&self, key: &str) -> Result<Option<u64>, JsonError> {
        let convert = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|n| n as u64));
        self.get_as(key, "a whole number", convert)
    }

    /// An optional number.
    pub fn get_number(&self, key: &str) -> Result<Option<f64>, JsonError> {
        self.get_as(key, "a number", Value::as_f64)
    }

    /// An optional boolean.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, JsonError> {
        self.get_as(key, "true or false", Value::as_bool)
    }

    /// An optional string.
    pub fn get_string(&self, key: &str) -> Result<Option<&str>, JsonError> {
        self.get_as(key, "a string", Value::as_str)
    }

    /// A required array of strings.
    pub fn strings(&self, key: &str) -> Result<Vec<String>, JsonError> {
        required(key, self.get_strings(key)?)
    }

    /// An optional array of strings.
    pub fn get_strings(&self, key: &str) -> Result<Option<Vec<String>>, JsonError> {
        let string = |item: &Value| item.as_str().map(str::to_string);
        let convert = |value: &Value| value.as_array()?.iter().map(string).collect();
        self.get_as(key, "an array of strings", convert)
    }

    /// An optional value, converted. Errors where `convert` returns none, naming what is `expected`.
    pub fn get_as<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, JsonError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let converted = convert(value).ok_or_else(|| JsonError::invalid(key, expected, value));
        converted.map(Some)
    }
}

/// A whole number >= 0, which may be written as `16.0`.
fn as_integer(value: &Value) -> Option<u64> {
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..9e15).contains(number);
    let float = value.as_f64().filter(whole);
    value.as_u64().or_else(|| float.map(|number| number as u64))
}

/// The value of a required key.
pub fn required<T>(key: &str, value: Option<T>) -> Result<T, JsonError> {
    value.ok_or_else(|| JsonError(format!("{key} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_key_and_its_value() {
        let json = br#"{"a": 1, "b": -1, "c": "x", "d": ["x", 1], "e": null, "f": 1.5,
            "g": 16.0}"#;
        let object = JsonObject::parse(json).unwrap();
        assert_eq!(object.integer("a").unwrap(), 1);
        assert_eq!(object.get_integer("e").unwrap(), None);
        assert_eq!(object.integer("g").unwrap(), 16);
        assert_eq!(object.get_seed("b").unwrap(), Some(u64::MAX));
        let error = |result: Result<_, JsonError>| result.map(|_: u64| ()).unwrap_err().to_string();
        assert_eq!(
            error(object.integer("b")),
            "b must be a whole number >= 0, got -1"
        );
        assert_eq!(error(object.integer("z")), "z is missing");
        let number = object.get_number("c").unwrap_err();
        assert_eq!(number.to_string(), "c must be a number, got \"x\"");
        let unknown = object.reject_unknown(&["a", "b"]).unwrap_err().to_string();
        assert!(unknown.contains("unknown field \"c\""), "{unknown}");
        assert!(object.strings("d").is_err() && object.get_bool("a").is_err());
        assert!(object.get_integer_from("a", 2).is_err() && object.get_integer("f").is_err());
        assert!(JsonObject::parse(b"[]").is_err() && JsonObject::parse(b"{").is_err());
        let long = JsonError::invalid("a", "a number", &Value::String("ä".repeat(100)));
        assert!(long.to_string().ends_with("ää…"), "{long}");
    }
}
