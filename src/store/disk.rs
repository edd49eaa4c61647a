//! File system operations of a save, with fault injection in tests.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    step()?;
    fs::create_dir_all(dir)
}

/// Writes and syncs a new file. Errors if the path exists, so that a link is never followed.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    step()?;
    let mut file = File::create_new(path)?;
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    file.write_all(first)?;
    step()?;
    file.write_all(rest)?;
    step()?;
    file.sync_all()
}

pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    fs::rename(from, to)
}

pub fn remove(path: &Path) -> io::Result<()> {
    step()?;
    fs::remove_file(path)
}

/// Syncs the entries of a directory.
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    step()?;
    File::open(dir)?.sync_all()
}

#[cfg(not(test))]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use faults::step;

/// Faults at a chosen step of a save.
#[cfg(test)]
pub mod faults {
    use std::cell::Cell;
    use std::io;

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Fault {
        /// The disk is full from this step on.
        Full,
        /// This step fails once.
        Fails,
        /// The process is killed: no step after this one runs, cleanup included.
        Killed,
    }

    thread_local! {
        static FAULT: Cell<Option<(Fault, usize)>> = const { Cell::new(None) };
        static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// Injects a fault at a step of this thread, counted from 0.
    pub fn inject(fault: Fault, step: usize) {
        FAULT.set(Some((fault, step)));
        STEPS.set(0);
    }

    /// Removes the fault.
    pub fn clear() {
        FAULT.set(None);
    }

    /// The number of steps since [`inject`].
    pub fn steps() -> usize {
        STEPS.get()
    }

    pub fn step() -> io::Result<()> {
        let step = STEPS.replace(STEPS.get() + 1);
        match FAULT.get() {
            Some((Fault::Full, at)) if step >= at => Err(io::ErrorKind::StorageFull.into()),
            Some((Fault::Fails, at)) if step == at => Err(io::Error::other("injected fault")),
            // Unlike panic!, this prints no message.
            Some((Fault::Killed, at)) if step >= at => std::panic::resume_unwind(Box::new(at)),
            _ => Ok(()),
        }
    }
}
