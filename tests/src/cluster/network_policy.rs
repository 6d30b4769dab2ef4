//! What a NetworkPolicy denies is denied: packet filters on the node, kept as the cluster's policies say.
//!
//! The rules of `networking.k8s.io/v1` with these properties, which the standard leaves open:
//! - What comes from the node (probes, port-forward, node ports from the node itself) always passes. What a pod
//!   sends to the node, the API server included, is egress like any other.
//! - Services count by the pods behind them; what is denied is dropped, not refused.
//! - Connections that exist when a policy comes go on.
//! - A pod is isolated as soon as its address is known, which is a moment after it has it.

mod block;
mod rules;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use futures::stream::{BoxStream, StreamExt as _, select_all};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use self::rules::{Chains, State};
use super::node::POD_RANGE;
use crate::enclosure::Entrance;
use crate::process;
use crate::slot::Slot;

/// Where the kernel has it, bridged packets pass iptables; elsewhere pods reach each other unfiltered.
const BRIDGE_SETTING: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Changes come in bursts, such as a namespace's end.
const BURST: Duration = Duration::from_millis(20);
const BURST_LENGTH: usize = 10;

/// Why the machine cannot hold pods to their policies, in one line; `None` if it can.
pub(super) fn missing() -> Option<String> {
    let exists = PathBuf::from(BRIDGE_SETTING).exists();
    (!exists).then(|| "needs a kernel that filters bridged packets (br_netfilter)".to_owned())
}

/// Keeps the node's filters up to date for as long as it lives. They are the enclosure's, and end with it.
#[derive(Debug)]
pub(super) struct Enforcer(JoinHandle<()>);

impl Enforcer {
    pub(super) fn start(slot: &Slot, entrance: &Entrance, client: kube::Client) -> Result<Self> {
        let file = slot.directory().join("network-policy.rules");
        let filters = Filters { entrance: entrance.try_clone()?, file, installed: None };
        Ok(Self(tokio::spawn(enforce(client, filters))))
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn enforce(client: kube::Client, mut filters: Filters) {
    let (policies, policy_changes) = watch::<NetworkPolicy>(&client);
    let (pods, pod_changes) = watch::<Pod>(&client);
    let (namespaces, namespace_changes) = watch::<Namespace>(&client);
    let mut changes = select_all([policy_changes, pod_changes, namespace_changes]);
    while let Some(()) = changes.next().await {
        for _ in 0..BURST_LENGTH {
            if tokio::time::timeout(BURST, changes.next()).await.is_err() {
                break;
            }
        }
        if !(is_filled(&policies) && is_filled(&pods) && is_filled(&namespaces)) {
            continue;
        }
        let (policies, pods, namespaces) = (policies.state(), pods.state(), namespaces.state());
        let chains = State { policies: &policies, pods: &pods, namespaces: &namespaces }.chains();
        filters = match filters.install(chains).await {
            Ok(filters) => filters,
            // Only a node that ends has no filters.
            Err(error) => return eprintln!("warning: network policies are no longer enforced: {error:#}"),
        };
    }
}

/// What there is of a kind, and when it changes.
fn watch<K>(client: &kube::Client) -> (Store<K>, BoxStream<'static, ()>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    // An error is followed by another try, and then by whatever was missed.
    (store, reflector::reflector(writer, events).map(drop).boxed())
}

fn is_filled<K>(store: &Store<K>) -> bool
where
    K: reflector::Lookup<DynamicType = ()> + Clone + 'static,
{
    store.wait_until_ready().now_or_never().is_some()
}

/// The node's packet filters.
struct Filters {
    entrance: Entrance,
    file: PathBuf,
    // None before the first time.
    installed: Option<Chains>,
}

impl Filters {
    async fn install(mut self, chains: Chains) -> Result<Self> {
        if self.installed.as_ref() == Some(&chains) {
            return Ok(self);
        }
        let install = move || {
            fs::write(&self.file, script(self.installed.as_ref(), &chains)?)?;
            let mut command = self.entrance.command("iptables-restore")?;
            // In this order: what follows `--wait` and is no option is taken for a number of seconds.
            command.args(["--wait", "--noflush"]).arg(&self.file);
            process::run(command)?;
            self.installed = Some(chains);
            Ok(self)
        };
        tokio::task::spawn_blocking(install).await.context("wait for iptables-restore")?
    }
}

/// What leads from the old chains to the new at once.
///
/// They hang in the table `mangle`, which is passed before the one in which kube-proxy lets packets through.
fn script(old: Option<&Chains>, new: &Chains) -> Result<String> {
    let none = BTreeMap::new();
    let stale: Vec<&String> = old.unwrap_or(&none).keys().filter(|name| !new.contains_key(*name)).collect();
    let mut script = "*mangle\n".to_owned();
    for name in new.keys().chain(stale.iter().copied()) {
        writeln!(script, ":{name} - [0:0]")?;
    }
    if old.is_none() {
        writeln!(script, "-A FORWARD -j {}", rules::ROOT)?;
        writeln!(script, "-A INPUT -s {POD_RANGE} -j {}", rules::ROOT)?;
    }
    for (name, rules) in new {
        for rule in rules {
            writeln!(script, "-A {name} {rule}")?;
        }
    }
    for name in stale {
        writeln!(script, "-X {name}")?;
    }
    script.push_str("COMMIT\n");
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_are_no_longer_needed_are_removed() -> Result<()> {
        let chains = |name: &str| {
            let root = (rules::ROOT.to_owned(), vec![format!("-j {name}")]);
            BTreeMap::from([root, (name.to_owned(), vec!["-j DROP".to_owned()])])
        };
        let (old, new) = (chains("KLED-A"), chains("KLED-B"));
        let first = script(None, &old)?;
        assert!(first.contains("-A FORWARD -j KLED-POLICY\n") && !first.contains("-X"));
        assert_eq!(
            script(Some(&old), &new)?,
            "*mangle\n:KLED-B - [0:0]\n:KLED-POLICY - [0:0]\n:KLED-A - [0:0]\n\
             -A KLED-B -j DROP\n-A KLED-POLICY -j KLED-B\n-X KLED-A\nCOMMIT\n"
        );
        Ok(())
    }
}
