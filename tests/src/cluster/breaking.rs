//! Breaking a cluster of one's own: what a node or a control plane that fails looks like.

use anyhow::{Context as _, Result};

use super::{Cluster, Owned};
use crate::control_plane::Place;

impl Cluster {
    /// Kills the kubelet; containers go on, and so does what the API server last heard of them.
    ///
    /// The node counts as ready for another fifty seconds, as on any cluster.
    ///
    /// # Errors
    /// When it does not run, or the cluster is another process's.
    pub async fn kill_kubelet(&self) -> Result<()> {
        self.own()?.node.kill_kubelet().await
    }

    /// Starts the kubelet again; it takes over the containers that it finds.
    ///
    /// # Errors
    /// When it runs already, or the cluster is another process's.
    pub fn start_kubelet(&self) -> Result<()> {
        let owned = self.own()?;
        owned.node.start_kubelet(&owned.slot, self.node(), &owned.api_server)
    }

    /// Kills the API server; its store and everything else go on.
    ///
    /// # Errors
    /// When it does not run, or the cluster is another process's.
    pub async fn kill_api_server(&self) -> Result<()> {
        self.own()?.api_server.kill().await
    }

    /// Starts the API server again, at the same address and with the same data, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already or does not start, or the cluster is another process's.
    pub async fn start_api_server(&self) -> Result<()> {
        let owned = self.own()?;
        let place = Place::Inside(self.node());
        owned.api_server.start_again(&owned.slot, place, &self.access.client).await
    }

    /// Kills the API server and starts it again.
    ///
    /// # Errors
    /// When one of the two fails.
    pub async fn restart_api_server(&self) -> Result<()> {
        self.kill_api_server().await?;
        self.start_api_server().await
    }

    fn own(&self) -> Result<&Owned> {
        self.owned.as_ref().context("only who started a cluster may break it (see `Cluster::start`)")
    }
}
