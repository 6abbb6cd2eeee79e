//! Leases on files: whoever opens the file waits until the lease is given back.
//!
//! The kernel tells the holder of a lease by a signal that somebody waits; by default it is SIGIO, which ends a process
//! that does not expect it. A lease here asks for SIGURG instead, before it is taken: every process ignores that one
//! unless it asked for it, so a program that this library is part of keeps its own signals as they are.
//! The kernel itself takes a lease away that is not given back in time (`/proc/sys/fs/lease-break-time`, 45 s).

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};

use libc::c_int;

/// Linux's `F_SETSIG`, which `libc` does not name.
const F_SETSIG: c_int = 10;

/// What a lease keeps others from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Opening it to write. The file must be open to read only, and is leased only while nobody has it open to write.
    Read,
    /// Opening it at all. Leased only while nobody else has it open.
    Write,
}

impl Kind {
    const fn number(self) -> c_int {
        match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
        }
    }
}

/// How asking for a lease ended.
#[derive(Debug)]
pub(super) enum Asked {
    /// It is ours.
    Granted(Lease),
    /// Others have the file open.
    InUse,
}

/// A lease, given back when it is dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub(super) struct Lease {
    file: Arc<File>,
    kind: Kind,
}

impl Lease {
    /// Asks for a lease. An error means that this filesystem has none, or none for us: who neither owns the file nor has
    /// `CAP_LEASE` gets none.
    pub(super) fn ask(file: &Arc<File>, kind: Kind) -> io::Result<Asked> {
        control(file.as_fd(), F_SETSIG, libc::SIGURG)?;
        match control(file.as_fd(), libc::F_SETLEASE, kind.number()) {
            Ok(_) => Ok(Asked::Granted(Self { file: Arc::clone(file), kind })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Asked::InUse),
            Err(error) => Err(error),
        }
    }

    /// Whether nobody waits for it, and the kernel has not taken it away.
    pub(super) fn is_unchallenged(&self) -> bool {
        control(self.file.as_fd(), libc::F_GETLEASE, 0).is_ok_and(|kind| kind == self.kind.number())
    }

    /// Gives it back; `false` where the kernel had taken it away before.
    pub(super) fn give_back(self) -> bool {
        control(self.file.as_fd(), libc::F_SETLEASE, libc::F_UNLCK).is_ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // There is none after it was given back, which does no harm.
        let _ = control(self.file.as_fd(), libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Whether we may have leases on the file; asks for none.
pub(super) fn is_possible(file: &File) -> bool {
    // To give back a lease that nobody has is refused after it was looked whether we may have one.
    match control(file.as_fd(), libc::F_SETLEASE, libc::F_UNLCK) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[expect(unsafe_code, reason = "no safe function has these commands")]
fn control(file: BorrowedFd<'_>, command: c_int, argument: c_int) -> io::Result<c_int> {
    // SAFETY: the descriptor is open as long as it is borrowed, and F_SETLEASE, F_GETLEASE and F_SETSIG take an int and
    // read or write no memory of ours.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    fn granted(asked: io::Result<Asked>) -> Lease {
        match asked.unwrap() {
            Asked::Granted(lease) => lease,
            Asked::InUse => panic!("somebody has the file open"),
        }
    }

    #[test]
    fn a_read_lease_proves_that_nobody_writes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        fs::write(&path, "x").unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        assert!(is_possible(&file));
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(matches!(Lease::ask(&file, Kind::Read).unwrap(), Asked::InUse));
        drop(writer);
        let _reader = File::open(&path).unwrap();
        let lease = granted(Lease::ask(&file, Kind::Read));
        assert!(lease.is_unchallenged());
        assert!(lease.give_back());
    }

    #[test]
    fn who_opens_a_leased_file_waits_and_ends_no_process() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let new = OpenOptions::new().read(true).append(true).create_new(true).open(&path).unwrap();
        let file = Arc::new(new);
        let lease = granted(Lease::ask(&file, Kind::Write));
        let opener = std::thread::spawn(move || OpenOptions::new().append(true).open(path).map(drop));
        // The kernel's signal comes before the challenge can be seen.
        while lease.is_unchallenged() {
            std::thread::yield_now();
        }
        assert!(!opener.is_finished());
        assert!(lease.give_back());
        opener.join().unwrap().unwrap();
        assert!(matches!(Lease::ask(&file, Kind::Write).unwrap(), Asked::Granted(_)));
    }
}
