//! Files that a command reads, of which `-` is standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};

/// Opens a file, or standard input for `-`. Returns it with its name in messages.
pub fn open(path: &Path) -> Result<(String, Box<dyn Read + Send>)> {
    if path.as_os_str() == "-" {
        return Ok(("standard input".to_string(), Box::new(io::stdin())));
    }
    let source = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot read {source}"))?;
    Ok((source, Box::new(file)))
}
