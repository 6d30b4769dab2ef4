//! A hook that breaks an operation at a chosen step.

use std::fmt;
use std::sync::Arc;

use crate::workspace::Operation;
use crate::{Error, Result};

/// What happens at a step.
#[derive(Debug, Default)]
pub enum Fault {
    /// Nothing: the step is done.
    #[default]
    None,
    /// The step fails before it does anything, as if the backend had refused it.
    Fail(Error),
    /// The step never ends. Dropping the call then is what a killed process is.
    Hang,
}

/// Decides what happens at each step. The conformance suite implements it; so can an embedder's own tests.
pub trait FaultInjector: fmt::Debug + Send + Sync + 'static {
    /// Asked immediately before `step` of `operation` has its effect.
    fn fault(&self, operation: Operation, step: &str) -> Fault;
}

/// The place in a provider where faults enter. By default there are none and asking costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults(Option<Arc<dyn FaultInjector>>);

impl Faults {
    /// No faults.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Faults as `injector` decides.
    pub fn injected(injector: Arc<dyn FaultInjector>) -> Self {
        Self(Some(injector))
    }

    /// A provider calls it immediately before each step that changes or asks the backend.
    ///
    /// # Errors
    /// The error that was injected.
    pub async fn at(&self, operation: Operation, step: &str) -> Result<()> {
        match self.0.as_ref().map(|injector| injector.fault(operation, step)) {
            None | Some(Fault::None) => Ok(()),
            Some(Fault::Fail(error)) => Err(error.during(operation.as_str())),
            Some(Fault::Hang) => std::future::pending().await,
        }
    }
}
