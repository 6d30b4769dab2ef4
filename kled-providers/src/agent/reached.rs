//! The agents that were reached before, whose connections are kept for the calls that follow.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kled_core::WorkspaceName;

use super::AgentClient;

/// Connections that are kept.
const AGENTS_MAX: usize = 256;

/// A workspace whose agent answers, with what the backend said of it.
#[derive(Clone, Debug)]
pub(crate) struct Reached<M> {
    pub(crate) marks: M,
    pub(crate) client: AgentClient,
}

/// The agents of a backend.
#[derive(Debug)]
pub(crate) struct Agents<M>(Mutex<HashMap<WorkspaceName, Reached<M>>>);

impl<M> Default for Agents<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M: Clone> Agents<M> {
    /// The agent of a workspace, if its connection is there.
    pub(crate) fn get(&self, name: &WorkspaceName) -> Option<Reached<M>> {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if agents.get(name).is_some_and(|reached| reached.client.is_closed()) {
            agents.remove(name);
        }
        agents.get(name).cloned()
    }

    /// Keeps a connection, unless too many are kept.
    pub(crate) fn keep(&self, name: &WorkspaceName, reached: Reached<M>) {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if agents.len() >= AGENTS_MAX {
            agents.retain(|_, reached| !reached.client.is_closed());
        }
        if agents.len() < AGENTS_MAX {
            agents.insert(name.clone(), reached);
        }
    }

    /// Gives up the connection of a workspace that is stopped or deleted.
    pub(crate) fn forget(&self, name: &WorkspaceName) -> Option<AgentClient> {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        agents.remove(name).map(|reached| reached.client)
    }
}
