//! A certificate for 127.0.0.1, and an authority that vouches for it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

const CERTIFY: &str = r#"
key='ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 -newkey $key -days 2 -subj '/CN=authority of a test' -keyout ca.key -out ca.crt
openssl req -newkey $key -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout "$1/server.key" -out server.csr
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out "$1/server.crt"
chmod 600 "$1/server.key"
chmod 755 . && chmod 644 ca.crt
"#;

const CERTIFY_CLIENT: &str = r"
key='ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -newkey $key -subj /CN=client -addext extendedKeyUsage=clientAuth -keyout key.pem -out client.csr
openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out cert.pem
cp ca.crt ca.pem
";

/// Makes an authority in `folder`, and in `data` the files `server.crt` and `server.key`, by a `shell` of who runs the server.
pub fn certify(mut shell: Command, folder: &Path, data: &Path) {
    let made = shell.args(["-ec", CERTIFY, "sh"]).arg(data).current_dir(folder).output().expect("sh");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}

/// Makes what a client shows to a server, in the `folder` of its authority: `ca.pem`, `cert.pem` and `key.pem`.
pub fn certify_client(folder: &Path) {
    let mut shell = Command::new("sh");
    let made = shell.args(["-ec", CERTIFY_CLIENT]).current_dir(folder).output().expect("sh");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}

/// The certificate of the authority of a server whose data is in `data`, a folder in its own.
pub fn authority(data: &Path) -> PathBuf {
    data.with_file_name("ca.crt")
}
