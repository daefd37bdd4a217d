//! Certificates of a test, made by openssl.

use std::path::Path;
use std::process::Command;

/// Makes `server.crt` for localhost and 127.0.0.1, its `server.key`, and the `ca.crt` that signed it.
pub fn make(directory: &Path) {
    // Without this configuration, that of the system would make every certificate an authority.
    let empty = "[req]\ndistinguished_name = name\n[name]\n";
    std::fs::write(directory.join("openssl.cnf"), empty).expect("openssl.cnf");
    let authority = ["-addext", "basicConstraints = critical, CA:TRUE"];
    let subject = ["-subj", "/CN=authority of a test", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(directory, &[authority.as_slice(), &subject].concat());
    let server = ["-addext", "basicConstraints = critical, CA:FALSE"];
    let names = ["-addext", "subjectAltName = DNS:localhost, IP:127.0.0.1"];
    let subject = ["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.crt"];
    let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
    openssl(directory, &[server.as_slice(), &names, &subject, &signed].concat());
}

fn openssl(directory: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "1", "-config", "openssl.cnf"])
        .args(args)
        .current_dir(directory)
        .output()
        .expect("openssl starts (Debian: openssl)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
