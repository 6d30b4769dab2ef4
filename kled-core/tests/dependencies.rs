//! What `kled-core` does not depend on, with default features.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

/// Names that begin so stand for HTTP, TLS, Kubernetes, or an I/O driver of tokio.
const FORBIDDEN: &[&str] = &[
    "aws-lc",
    "boring",
    "h2",
    "http",
    "hyper",
    "k8s-openapi",
    "kube",
    "mio",
    "native-tls",
    "openssl",
    "prost",
    "quinn",
    "reqwest",
    "ring",
    "rustls",
    "schannel",
    "security-framework",
    "tonic",
    "tower",
    "ureq",
    "webpki",
];

#[test]
fn the_default_tree_has_no_http_tls_or_kubernetes() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments =
        ["tree", "--package", "kled-core", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"kled-core") && crates.contains(&"tokio"), "not a tree: {tree}");
    let found: Vec<_> =
        crates.iter().filter(|name| FORBIDDEN.iter().any(|forbidden| name.starts_with(forbidden))).collect();
    assert!(found.is_empty(), "{found:?}");
}
