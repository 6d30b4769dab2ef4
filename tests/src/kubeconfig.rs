//! Kubeconfig files with everything inside, so that they can be copied anywhere.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::authority::Credential;

/// A test's API server is on this machine; the default of half a minute only hides that it is not listening yet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes a kubeconfig; as JSON, which is YAML too.
pub(crate) fn write(path: &Path, server: &str, authority: &str, user: &Credential) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kled",
        "contexts": [{"name": "kled", "context": {"cluster": "kled", "user": "kled"}}],
        "clusters": [{"name": "kled", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": "kled", "user": {
            "client-certificate-data": STANDARD.encode(&user.certificate),
            "client-key-data": STANDARD.encode(&user.key),
        }}],
    });
    std::fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
}

/// Writes a kubeconfig for a server without TLS that asks for nothing.
pub(crate) fn write_plain(path: &Path, server: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kled",
        "contexts": [{"name": "kled", "context": {"cluster": "kled", "user": "kled"}}],
        "clusters": [{"name": "kled", "cluster": {"server": server}}],
        "users": [{"name": "kled", "user": {}}],
    });
    std::fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
}

/// A client of whatever the kubeconfig's current context names.
///
/// # Errors
/// When the file is no kubeconfig.
pub async fn client(path: &Path) -> Result<kube::Client> {
    kube::Client::try_from(config(path).await?).context("make a Kubernetes client")
}

/// A client that tells every failure at once; others try some again on their own.
///
/// # Errors
/// When the file is no kubeconfig.
pub async fn client_without_retries(path: &Path) -> Result<kube::Client> {
    let mut config = config(path).await?;
    config.default_retry = false;
    kube::Client::try_from(config).context("make a Kubernetes client")
}

async fn config(path: &Path) -> Result<kube::Config> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}
