//! Consistent reads of a model directory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::commit::{committed_files, open_file, read_json_file, staged};
use super::files::{CONFIG, FILES, HUGGINGFACE_WEIGHTS, META, WEIGHTS_INDEX};
use super::json::JsonObject;
use super::shards::shard_names;

/// The maximum number of attempts to open the files while saves replace them.
const MAX_ATTEMPTS: usize = 100;

/// The bytes of a file, mapped or in main memory.
#[derive(Debug)]
pub enum FileBytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Read(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        FileBytes::Read(bytes)
    }
}

/// The open files of one save of a model directory. Later saves don't affect them, so readers need
/// no lock.
pub struct Snapshot {
    dir: PathBuf,
    files: Vec<(String, File)>,
}

impl Snapshot {
    /// Opens all existing files of a model directory, all from the same save.
    pub fn open(dir: &Path) -> Result<Self> {
        let metadata = fs::metadata(dir)
            .with_context(|| format!("cannot open the model directory {}", dir.display()))?;
        if !metadata.is_dir() {
            bail!(
                "{} is not a directory; a model is a directory that `microgpt train` writes",
                dir.display()
            );
        }
        for _ in 0..MAX_ATTEMPTS {
            let files = open_files(dir)?;
            // A save between the first open and the last would have given a name another inode.
            // The open files keep their inodes from being reused.
            if inodes(&open_files(dir)?)? == inodes(&files)? {
                return Ok(Self {
                    dir: dir.to_path_buf(),
                    files,
                });
            }
        }
        bail!("{} changes faster than it can be read", dir.display())
    }

    /// Returns whether the directory has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(file_name, _)| file_name == name)
    }

    /// Returns whether it is a Hugging Face directory. One that is a model directory, too, is not.
    pub fn is_huggingface(&self) -> bool {
        self.has(CONFIG)
    }

    /// Reads the files with the weights of a Hugging Face directory. It does not map them: transformers
    /// writes to existing files.
    pub fn read_huggingface_weights(&self) -> Result<Vec<FileBytes>> {
        let mut names: Vec<&str> = self.files.iter().map(|(name, _)| &**name).collect();
        names.retain(|name| name.ends_with(".safetensors"));
        ensure!(
            !names.is_empty(),
            "{} is missing, and so is {WEIGHTS_INDEX}",
            self.path(HUGGINGFACE_WEIGHTS).display()
        );
        let read = |name: &str| {
            let mut bytes = Vec::new();
            let mut file = self.file(name)?;
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.read_to_end(&mut bytes))
                .with_context(|| format!("cannot read {}", self.path(name).display()))?;
            Ok(FileBytes::Read(bytes))
        };
        names.into_iter().map(read).collect()
    }

    /// Returns the path of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, name: &str) -> Result<&File> {
        match self.files.iter().find(|(file_name, _)| file_name == name) {
            Some((_, file)) => Ok(file),
            None => bail!("{} is missing", self.path(name).display()),
        }
    }

    /// Maps a file into memory.
    pub fn map(&self, name: &str) -> Result<FileBytes> {
        // SAFETY: a mapped file must not change. A save never writes to an existing file; it renames
        // a new one over it. README.md forbids other programs to write to it.
        let map = unsafe { memmap2::Mmap::map(self.file(name)?) };
        let map = map.with_context(|| format!("cannot map {}", self.path(name).display()))?;
        Ok(FileBytes::Mapped(map))
    }

    /// Reads a file that holds a JSON object.
    pub fn read_json(&self, name: &str) -> Result<JsonObject> {
        JsonObject::parse(&self.read(name)?).with_context(|| self.path(name).display().to_string())
    }

    /// Reads a JSON file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let bytes = read_json_file(self.file(name)?);
        bytes.with_context(|| format!("cannot read {}", self.path(name).display()))
    }

    /// Returns the total size of the files in bytes.
    pub fn size_on_disk(&self) -> Result<u64> {
        self.files
            .iter()
            .map(|(_, file)| Ok(file.metadata()?.len()))
            .sum()
    }
}

/// Opens the existing files; without a meta.json, those of a Hugging Face directory, too.
fn open_files(dir: &Path) -> Result<Vec<(String, File)>> {
    let committed = committed_files(dir)?.unwrap_or_default();
    let open = |names: &[&str], files: &mut Vec<(String, File)>| {
        for name in names {
            if let Some(file) = open_existing(dir, name, &committed)? {
                files.push((name.to_string(), file));
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let mut files = Vec::new();
    open(&FILES, &mut files)?;
    if files.iter().any(|(name, _)| name == META) {
        return Ok(files);
    }
    open(&[CONFIG, HUGGINGFACE_WEIGHTS], &mut files)?;
    if files.iter().all(|(name, _)| name != HUGGINGFACE_WEIGHTS)
        && let Some(index) = open_existing(dir, WEIGHTS_INDEX, &committed)?
    {
        let path = dir.join(WEIGHTS_INDEX);
        let bytes = read_json_file(&index);
        let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
        for name in shard_names(&bytes).with_context(|| path.display().to_string())? {
            match open_existing(dir, &name, &[])? {
                Some(file) => files.push((name, file)),
                None => bail!("{} is missing", dir.join(&name).display()),
            }
        }
        files.push((WEIGHTS_INDEX.to_string(), index));
    }
    Ok(files)
}

/// Opens a file if it exists. A committed file may still have its staged name.
fn open_existing(dir: &Path, name: &str, committed: &[String]) -> Result<Option<File>> {
    let mut paths = vec![dir.join(name)];
    if committed.iter().any(|committed| committed == name) {
        paths.insert(0, dir.join(staged(name)));
    }
    for path in paths {
        match open_file(&path) {
            Ok(file) => return Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        }
    }
    Ok(None)
}

/// Returns the name, device and inode of each file.
fn inodes(files: &[(String, File)]) -> io::Result<Vec<(&str, u64, u64)>> {
    files
        .iter()
        .map(|(name, file)| {
            let metadata = file.metadata()?;
            Ok((&**name, metadata.dev(), metadata.ino()))
        })
        .collect()
}
