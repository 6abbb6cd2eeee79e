//! Who a file belongs to and who may use it, carried over to another.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::unix::fs::{MetadataExt, fchown},
};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr},
    io::Errno,
};

/// How many bytes the names, and one value, of extended attributes may have: Linux allows no more.
const XATTR_MAX: usize = 64 * 1024;

/// Gives `to` the owner, group, mode, access control list and other extended attributes of `from`. Answers the names of
/// the extended attributes that could not be set; the others are an error where they cannot.
pub(super) fn keep(from: &File, to: &File) -> io::Result<Vec<String>> {
    let (wanted, own) = (from.metadata()?, to.metadata()?);
    if (wanted.uid(), wanted.gid()) != (own.uid(), own.gid()) {
        fchown(to, Some(wanted.uid()), Some(wanted.gid())).map_err(|error| {
            let what = "its owner and group cannot be kept: run the janitor as its owner, or as root";
            io::Error::new(error.kind(), format!("{what} ({error})"))
        })?;
    }
    let lost = keep_extended(from, to)?;
    // An access control list changes the mode, and a change of the owner takes bits from it.
    to.set_permissions(wanted.permissions())?;
    Ok(lost)
}

fn keep_extended(from: &File, to: &File) -> io::Result<Vec<String>> {
    let mut names = vec![0; XATTR_MAX];
    let length = match flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let (mut lost, mut value) = (Vec::new(), vec![0; XATTR_MAX]);
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let set = fgetxattr(from, name, &mut value[..])
            .and_then(|length| fsetxattr(to, name, &value[..length], XattrFlags::empty()));
        match set {
            // It was removed meanwhile.
            Ok(()) | Err(Errno::NODATA) => {}
            Err(_) => lost.push(name.to_string_lossy().into_owned()),
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn mode_owner_and_attributes_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let [from, to] = ["a", "b"].map(|name| File::create_new(temp.path().join(name)).unwrap());
        fchown(&from, Some(1234), Some(4321)).unwrap();
        from.set_permissions(Permissions::from_mode(0o640)).unwrap();
        fsetxattr(&from, c"user.kind", b"log", XattrFlags::empty()).unwrap();
        assert_eq!(keep(&from, &to).unwrap(), Vec::<String>::new());
        let found = to.metadata().unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 4321, 0o640));
        let mut value = [0; 9];
        let length = fgetxattr(&to, c"user.kind", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"log");
    }
}
