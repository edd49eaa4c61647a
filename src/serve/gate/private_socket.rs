//! A pair of connected sockets, one of them for tiny_http, which takes a listener only.
//!
//! The listener's queue has a single place, which our connection takes before tiny_http accepts.
//! No other process can connect, before or after.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use socket2::{Domain, SockAddr, Socket, Type};

/// Returns a connection, and the listener that accepts it and nothing else. Errors if another
/// process was faster.
pub fn pair() -> io::Result<(UnixStream, UnixListener)> {
    let new = || Socket::new(Domain::UNIX, Type::STREAM, None);
    let (stream, listener) = (new()?, new()?);
    let name = Name::new()?;
    listener.bind(&name.address()?)?;
    // Linux queues one connection more than this.
    listener.listen(0)?;
    // A full queue is an error, not a wait.
    stream.set_nonblocking(true)?;
    stream.connect(&name.address()?)?;
    stream.set_nonblocking(false)?;
    name.close(&listener)?;
    Ok((OwnedFd::from(stream).into(), OwnedFd::from(listener).into()))
}

/// An abstract name, which needs no directory: an image of the program alone has none to write to.
#[cfg(target_os = "linux")]
struct Name(String);

#[cfg(target_os = "linux")]
impl Name {
    fn new() -> io::Result<Self> {
        Ok(Self(format!("\0microgpt-{:032x}", fastrand::u128(..))))
    }

    fn address(&self) -> io::Result<SockAddr> {
        SockAddr::unix(&self.0)
    }

    /// Makes every further connect fail, and every accept after the queued one.
    fn close(self, listener: &Socket) -> io::Result<()> {
        listener.shutdown(Shutdown::Both)
    }
}

/// A path in a directory that only this user may enter. Dropping it removes both.
#[cfg(not(target_os = "linux"))]
struct Name(std::path::PathBuf);

#[cfg(not(target_os = "linux"))]
impl Name {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("microgpt-{:016x}", fastrand::u64(..));
        let dir = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    fn socket(&self) -> std::path::PathBuf {
        self.0.join("socket")
    }

    fn address(&self) -> io::Result<SockAddr> {
        SockAddr::unix(self.socket())
    }

    /// Removes the path. Where a listener cannot be shut down, it waits for ever.
    fn close(self, listener: &Socket) -> io::Result<()> {
        let _ = listener.shutdown(Shutdown::Both);
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let _ = std::fs::remove_dir(&self.0);
    }
}
