//! The end of a time to live. The agent of a workspace ends it; what is left is removed by whoever looks next.

use jiff::Timestamp;
use kled_core::{Result, WorkspaceName};

use super::Context;
use super::delete::Doomed;
use super::marks::Marks;
use super::state::Observation;

impl Context {
    /// What the engine shows of a name, once what has outlived its time is gone.
    pub(super) async fn look(&self, name: &WorkspaceName) -> Result<Observation> {
        let observation = self.observe(name).await?;
        let Some(marks) = observation.claim.as_ref().and_then(|labels| Marks::read(labels).ok()) else {
            return Ok(observation);
        };
        if !self.is_over(&observation, &marks).await? {
            return Ok(observation);
        }
        self.agents.forget(name);
        self.remove(name, &Doomed::one(&marks.id.to_string()), &mut Vec::new()).await?;
        self.observe(name).await
    }

    async fn is_over(&self, observation: &Observation, marks: &Marks) -> Result<bool> {
        let Some(expires) = marks.spec.expires(marks.created) else { return Ok(false) };
        if observation.ended_by_expiry() {
            return Ok(true);
        }
        // Its agent knows the time best. Nor is anything removed because of a wrong clock of this machine.
        let runs = observation.status(false, self.boot).is_running();
        if runs || Timestamp::now() < expires {
            return Ok(false);
        }
        Ok(self.engine.time().await?.is_none_or(|now| now >= expires))
    }
}
