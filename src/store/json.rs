//! JSON objects read key by key, so that what is wrong is said in terms of the file, not of the
//! program.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// A JSON file's object. Keys that nobody asks for are ignored.
pub struct JsonObject(Map<String, Value>);

impl JsonObject {
    /// Errors where the bytes are not the JSON of an object.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        match serde_json::from_slice(bytes).context("not valid JSON")? {
            Value::Object(map) => Ok(Self(map)),
            _ => bail!("not a JSON object"),
        }
    }

    /// The value of a key, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A whole number that has to be there.
    pub fn whole(&self, key: &str) -> Result<u64> {
        self.get_whole(key)?
            .with_context(|| format!("\"{key}\" is missing"))
    }

    /// A whole number that may be missing.
    pub fn get_whole(&self, key: &str) -> Result<Option<u64>> {
        self.get_as(key, "a whole number", Value::as_u64)
    }

    /// A number that may be missing.
    pub fn get_number(&self, key: &str) -> Result<Option<f64>> {
        self.get_as(key, "a number", Value::as_f64)
    }

    /// A truth value that may be missing.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.get_as(key, "true or false", Value::as_bool)
    }

    /// A string that may be missing.
    pub fn get_string(&self, key: &str) -> Result<Option<&str>> {
        self.get_as(key, "a string", Value::as_str)
    }

    /// An array of strings that has to be there.
    pub fn strings(&self, key: &str) -> Result<Vec<String>> {
        self.get_strings(key)?
            .with_context(|| format!("\"{key}\" is missing"))
    }

    /// An array of strings that may be missing.
    pub fn get_strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.get_as(key, "an array of strings", |value| {
            value
                .as_array()?
                .iter()
                .map(|item| item.as_str().map(str::to_string))
                .collect()
        })
    }

    fn get_as<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let mut found = value.to_string();
                if found.chars().count() > 40 {
                    found = found.chars().take(40).chain(['…']).collect();
                }
                bail!("\"{key}\" has to be {what}, found {found}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_in_terms_of_the_file() {
        let object =
            JsonObject::parse(br#"{"a": 1, "b": -1, "c": "x", "d": ["x", 1], "e": null}"#).unwrap();
        assert_eq!(object.whole("a").unwrap(), 1);
        assert_eq!(object.get_whole("e").unwrap(), None);
        let error = |result: Result<u64>| result.unwrap_err().to_string();
        assert_eq!(
            error(object.whole("b")),
            "\"b\" has to be a whole number, found -1"
        );
        assert_eq!(error(object.whole("z")), "\"z\" is missing");
        assert!(object.strings("d").is_err() && object.get_number("c").is_err());
        assert!(JsonObject::parse(b"[]").is_err() && JsonObject::parse(b"{").is_err());
    }
}
