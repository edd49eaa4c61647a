//! The index of weights that transformers saved in several files.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::json::{JsonObject, required};

/// Returns the distinct names of the files that an index lists. Errors for a name that is not one of a
/// safetensors file in the same directory.
pub fn shard_names(index: &[u8]) -> Result<BTreeSet<String>> {
    let index = JsonObject::parse(index)?;
    let files = index.get_as("weight_map", "an object of file names", |map| {
        let names = map.as_object()?.values();
        names
            .map(|name| name.as_str().map(str::to_string))
            .collect()
    })?;
    let names: BTreeSet<String> = required("weight_map", files)?;
    for name in &names {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(is_plain),
            "weight_map must list .safetensors files of its directory, got {name:?}"
        );
    }
    ensure!(!names.is_empty(), "weight_map lists no files");
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_directory_are_rejected() {
        let names = |map: &str| shard_names(format!("{{\"weight_map\": {map}}}").as_bytes());
        let found =
            names(r#"{"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}"#);
        let expected = ["m-1.safetensors", "m-2.safetensors"].map(str::to_string);
        assert_eq!(found.unwrap(), BTreeSet::from(expected));
        for name in [
            "../m.safetensors",
            "/m.safetensors",
            "m.bin",
            ".safetensors",
            "",
        ] {
            let error = names(&format!("{{\"a\": {name:?}}}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("got {name:?}")), "{error}");
        }
        let error = |map| names(map).unwrap_err().to_string();
        assert!(error("[1]").contains("weight_map must be an object of file names, got [1]"));
        assert!(error(r#"{"a": 1}"#).contains("an object of file names"));
        assert!(error("{}").contains("lists no files") && error("null").contains("is missing"));
    }
}
