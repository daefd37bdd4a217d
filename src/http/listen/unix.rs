//! Unix sockets: one listener that all workers share, and its file.

use std::fmt;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sigmad_flags::UnixName;
use socket2::{Domain, SockAddr, Socket, Type};

/// Connecting needs the right to write: the owner and the group of the file.
pub const MODE_DEFAULT: u32 = 0o660;
/// Another start holds the lock of a directory for less than a millisecond. Whoever can read the directory can lock it,
/// so the wait ends …
const LOCK_ATTEMPTS_MAX: u32 = 100;
/// … after so many of these.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A user or a group: the name or number as it was given, and the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOwner {
    /// As it was given.
    pub given: String,
    /// Its number.
    pub id: u32,
}

/// A Unix socket, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its name.
    pub name: UnixName,
    /// Permissions of its file; None for [`MODE_DEFAULT`].
    pub mode: Option<u32>,
    /// Owner of its file; None for the user of the process.
    pub user: Option<FileOwner>,
    /// Group of its file; None for that of the process, or of a directory with the bit setgid.
    pub group: Option<FileOwner>,
}

impl fmt::Display for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        let mode = self.mode.map(|mode| format!("mode={mode:04o}"));
        let owner = |word: &str, owner: &Option<FileOwner>| {
            owner.as_ref().map(|owner| format!("{word}={}", owner.given))
        };
        let options = [mode, owner("user", &self.user), owner("group", &self.group)];
        for (place, option) in options.into_iter().flatten().enumerate() {
            write!(f, "{}{option}", if place == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// The file of a listening socket; removed when dropped, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|present| present == self.identity) {
            // The directory may have become read-only. The next start replaces a file that nobody listens on.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `count` descriptors of one listening socket, and its file where it has one. `backlog` connections wait in the kernel.
///
/// # Errors
/// When the name can't be bound: another process listens there, the place is taken by something else than a socket, or
/// the file can't get its mode or its owner. A file that nobody listens on is replaced.
pub(super) fn unix_listeners(
    socket: &UnixSocket,
    count: usize,
    backlog: i32,
) -> io::Result<(Vec<UnixListener>, Option<SocketFile>)> {
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listener.set_nonblocking(true)?;
    let address = sockaddr(&socket.name.address());
    let file = match socket.name.path() {
        None => {
            listener.bind(&address)?;
            listener.listen(backlog)?;
            None
        }
        Some(path) => {
            // Held until it listens: of two starts the second one finds a live socket.
            let _lock = lock_directory(path)?;
            remove_stale(path, &address)?;
            listener.bind(&address)?;
            let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
            // Before anybody can connect.
            permit(path, socket)?;
            listener.listen(backlog)?;
            Some(file)
        }
    };
    let listener = UnixListener::from(OwnedFd::from(listener));
    let copies = (1..count).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()?;
    Ok((std::iter::once(listener).chain(copies).collect(), file))
}

fn sockaddr(address: &SocketAddr) -> SockAddr {
    use std::os::linux::net::SocketAddrExt as _;
    let name = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => return SockAddr::unix(path).expect("the name has been checked"),
        (None, name) => name.unwrap_or_default(),
    };
    // socket2 takes a first byte of zero for the mark of an abstract name, as the kernel does.
    let marked = [b"\0", name].concat();
    let marked = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&marked);
    SockAddr::unix(marked).expect("the name has been checked")
}

/// Locks the directory of a socket against other starts of this program.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let file = File::open(directory)?;
    for _ in 0..LOCK_ATTEMPTS_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    let message = format!("another process has locked {}", directory.display());
    Err(io::Error::new(ErrorKind::WouldBlock, message))
}

/// Removes the socket of a process that has ended without removing it.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let message = "there is a file that is no socket";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A live socket with a full queue would make it wait.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(()) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there"))
        }
        Err(error) => Err(error),
    }
}

/// Gives the file its owner and its mode.
fn permit(path: &Path, socket: &UnixSocket) -> io::Result<()> {
    let UnixSocket { mode, user, group, .. } = socket;
    let failed = |what: String| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    for (word, owner) in [("user", user), ("group", group)] {
        let Some(FileOwner { given, id }) = owner else { continue };
        let (uid, gid) = if word == "user" { (Some(*id), None) } else { (None, Some(*id)) };
        lchown(path, uid, gid).map_err(failed(format!("it can't be given to {word} {given}")))?;
    }
    let mode = mode.unwrap_or(MODE_DEFAULT);
    let permissions = Permissions::from_mode(mode);
    // After the owner: a change of owner may clear bits.
    fs::set_permissions(path, permissions).map_err(failed(format!("it can't have mode {mode:04o}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A directory of this test, removed with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sigmad-{}-{test}", std::process::id()));
            fs::create_dir(&path).expect("a new directory");
            Self(path)
        }

        fn socket(&self) -> UnixSocket {
            let name = format!("unix:{}/s", self.0.display()).parse().expect("a short path");
            UnixSocket { name, mode: None, user: None, group: None }
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("it is ours");
        }
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let directory = Directory::new("stale");
        let socket = directory.socket();
        let path = socket.name.path().expect("a path");
        let (listeners, file) = unix_listeners(&socket, 3, 8).expect("a free name");
        assert_eq!(listeners.len(), 3);
        let refused = unix_listeners(&socket, 1, 8).expect_err("it is live");
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        assert!(UnixStream::connect(path).is_ok(), "the live one still serves");

        // As after SIGKILL: the listeners are closed, and the file stays.
        std::mem::forget(file);
        drop(listeners);
        assert!(path.exists());
        let (listeners, file) = unix_listeners(&socket, 1, 8).expect("a stale file");
        drop(file);
        assert!(!path.exists(), "removed, while it still listens");
        drop(listeners);
    }

    #[test]
    fn a_file_of_another_kind_stays() {
        let directory = Directory::new("kinds");
        let socket = directory.socket();
        let path = socket.name.path().expect("a path");
        fs::write(path, "precious").expect("a file");
        let refused = unix_listeners(&socket, 1, 8).expect_err("it is no socket");
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(path).expect("it is there"), b"precious");
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let directory = Directory::new("successor");
        let socket = directory.socket();
        let path = socket.name.path().expect("a path");
        let (_listeners, file) = unix_listeners(&socket, 1, 8).expect("a free name");
        fs::remove_file(path).expect("an administrator removes it");
        let (_successors, _successor) = unix_listeners(&socket, 1, 8).expect("a free name");
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn the_file_has_its_mode_whatever_the_mask() {
        let directory = Directory::new("mode");
        for (mode, expected) in [(None, MODE_DEFAULT), (Some(0o666), 0o666), (Some(0o600), 0o600)] {
            let socket = UnixSocket { mode, ..directory.socket() };
            let (_listeners, file) = unix_listeners(&socket, 1, 8).expect("a free name");
            let metadata = fs::metadata(socket.name.path().expect("a path")).expect("a file");
            assert_eq!(metadata.mode() & 0o7777, expected);
            drop(file);
        }
    }

    #[test]
    fn an_abstract_name_has_no_file() {
        let text = format!("unix:@sigmad-test-{}", std::process::id());
        let name: UnixName = text.parse().expect("a name");
        let socket = UnixSocket { name, mode: None, user: None, group: None };
        let (listeners, file) = unix_listeners(&socket, 2, 8).expect("a free name");
        assert!(file.is_none());
        assert!(UnixStream::connect_addr(&socket.name.address()).is_ok());
        let refused = unix_listeners(&socket, 1, 8).expect_err("it is live");
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        drop(listeners);
        assert!(unix_listeners(&socket, 1, 8).is_ok(), "nothing is left of it");
    }
}
