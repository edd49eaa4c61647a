//! The commit file: the list of the files that a save replaces.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::files::{FILES, HUGGINGFACE_FILES};
use super::json::JsonObject;

/// The name of the commit file. It exists from the commit of a save until its files are in place.
pub const COMMIT: &str = "save.commit";

/// The maximum size of a JSON file in bytes. All of Unicode in `chars` takes less, and so does the largest
/// vocabulary of byte-level BPE.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// Returns the name under which a save writes a file before the commit.
pub fn staged(name: &str) -> String {
    format!("{name}.new")
}

/// Returns the files of the committed save, or `None` without a commit file.
pub fn committed_files(dir: &Path) -> Result<Option<Vec<String>>> {
    let path = dir.join(COMMIT);
    let bytes = match open_file(&path).and_then(|file| read_json_file(&file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let names = JsonObject::parse(&bytes).and_then(|commit| commit.strings("files"));
    let names = names.with_context(|| path.display().to_string())?;
    let is_known = |name: &str| FILES.contains(&name) || HUGGINGFACE_FILES.contains(&name);
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        bail!(
            "{}: {name:?} is not a file of a model directory",
            path.display()
        );
    }
    Ok(Some(names))
}

/// Opens a regular file. Checks the type first, because opening a named pipe waits for its writer.
pub fn open_file(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// Reads a file from its start. Errors if it has more than [`MAX_JSON_BYTES`].
pub fn read_json_file(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let message = format!("it has more than {} MiB", MAX_JSON_BYTES >> 20);
        return Err(io::Error::other(message));
    }
    Ok(bytes)
}
