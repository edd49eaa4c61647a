//! What a save does to the disk, step by step, so that tests can stop it at each of them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    step()?;
    fs::create_dir_all(dir)
}

/// Writes a file that must not be there yet, and waits until it is on the disk. A link in its place,
/// which might lead anywhere, is not followed.
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

/// Waits until the names in a directory are on the disk.
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

/// Steps that fail, and steps at which a process dies.
#[cfg(test)]
pub mod faults {
    use std::cell::Cell;
    use std::io;

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Fault {
        /// The disk is full, at this step and all after it.
        Full,
        /// This step fails once.
        Fails,
        /// The process is killed: nothing is done after it, not even cleaning up.
        Killed,
    }

    thread_local! {
        static FAULT: Cell<Option<(Fault, usize)>> = const { Cell::new(None) };
        static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// Lets a fault happen at a step of this thread, counted from 0 on.
    pub fn happens_at(fault: Option<(Fault, usize)>) {
        FAULT.set(fault);
        STEPS.set(0);
    }

    /// How many steps there were since.
    pub fn steps() -> usize {
        STEPS.get()
    }

    pub fn step() -> io::Result<()> {
        let step = STEPS.replace(STEPS.get() + 1);
        match FAULT.get() {
            Some((Fault::Full, at)) if step >= at => Err(io::ErrorKind::StorageFull.into()),
            Some((Fault::Fails, at)) if step == at => Err(io::Error::other("a fault")),
            // Quietly, without the hook that prints panics.
            Some((Fault::Killed, at)) if step >= at => std::panic::resume_unwind(Box::new(at)),
            _ => Ok(()),
        }
    }
}
