//! `kled-agent sidecar`: watches the agent in the other container of the pod and ends what nobody uses.
//!
//! It alone has the rights of the pod's service account: what runs in the workspace's container cannot reach them.
//!
//! | variable | |
//! |---|---|
//! | `KLED_WORKSPACE`, `KLED_WORKSPACE_ID` | the workspace |
//! | `KLED_NAMESPACE`, `KLED_POD`, `KLED_STATEFULSET` | where it is |
//! | `KLED_STATEFULSET_UID` | optional: else the pod's owner reference says it, which takes the right to read the pod |
//! | `KLED_IDLE_SECONDS` | optional: it is stopped after so long without activity |
//! | `KLED_EXPIRES` | optional, RFC 3339: it is deleted then |
//! | `KLED_AGENT_LISTEN`, `KLED_AGENT_TOKEN_FILE` | as for `serve` |
//! | `KLED_SERVICE_ACCOUNT` | the folder with `token` and `ca.crt`, by default where Kubernetes mounts it |
//!
//! | to | it needs the right |
//! |---|---|
//! | stop | `patch` of its StatefulSet |
//! | delete | `delete` of its StatefulSet |
//! | say `kled.io/Idle` and `kled.io/AgentHealthy` | `patch` of its pod's `status`; without it that is left out |
//! | learn its StatefulSet's identity | `get` of its pod, without `KLED_STATEFULSET_UID` |

mod backoff;
mod cluster;
mod conditions;
mod decision;
mod settings;

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kled_core::workspace::Condition;
use kled_core::{Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::cluster::{Cluster, Deletion, Refused};
use self::decision::{Contact, Heard, Moment, Now, Observed, Quiet, Verdict, decide};
use self::settings::Settings;
use super::log::log;
use super::settings::{of_process, read_token};
use super::status::{connect, reachable};
use super::{one_line, runtime};
use crate::agent::{AgentStatus, Token};

/// How often the agent says how it is.
const INTERVAL: Duration = Duration::from_secs(10);

/// Silence of this length means that the agent hangs: it misses its own interval.
const SILENCE: Duration = Duration::from_secs(35);

/// Between two attempts to reach the agent.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How long an attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Between two attempts to write conditions.
const CONDITIONS_PAUSE: Duration = Duration::from_secs(30);

/// What is heard and not yet taken note of.
const QUEUE: usize = 16;

/// Watches until the pod ends.
pub(super) fn main() -> Result<()> {
    let result = run();
    if let Err(error) = &result {
        log(format!("the sidecar cannot run: {}", one_line(error)));
    }
    result
}

fn run() -> Result<()> {
    let settings = Settings::read(of_process)?;
    let token = read_token(&settings.token_file)?;
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|cause| Error::new(ErrorKind::Internal, "signals cannot be heard").because(cause))?;
        tokio::select! {
            () = Sidecar::new(settings, token).run() => {}
            // The agent itself ends what runs; this container has nothing to end.
            _ = terminate.recv() => log("ended"),
        }
        Ok(())
    })
}

/// What is heard of the agent.
enum Event {
    Status(AgentStatus),
    Lost(Error),
}

struct Sidecar {
    settings: Settings,
    events: mpsc::Receiver<Event>,
    began: Instant,
    observed: Observed,
    /// Made when it is first needed, so that without a limit no right is.
    cluster: Option<Cluster>,
    /// Failures of what is to be done, in a row.
    failures: u32,
    conditions: Conditions,
}

/// What the pod's conditions say.
struct Conditions {
    said: Vec<Condition>,
    allowed: bool,
    not_before: Instant,
}

impl Sidecar {
    fn new(settings: Settings, token: Token) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        log(format!("watching workspace {} ({})", settings.name, settings.id));
        tokio::spawn(listen(settings.agent, token, sender));
        let began = Instant::now();
        // Without a service account there is nothing to say them with.
        let allowed = settings.place.service_account.join("token").is_file();
        Self {
            settings,
            events,
            began,
            observed: Observed::nothing(),
            cluster: None,
            failures: 0,
            conditions: Conditions { said: Vec::new(), allowed, not_before: began },
        }
    }

    async fn run(mut self) {
        loop {
            self.say_conditions().await;
            match decide(&self.observed, &self.settings.spec, self.now()) {
                Verdict::Stay { next_look } => {
                    self.failures = 0;
                    self.hear(next_look).await;
                }
                Verdict::Stop { reason } => {
                    let result = self.stop(reason).await;
                    self.after(result).await;
                }
                Verdict::Delete => {
                    let result = self.delete().await;
                    self.after(result).await;
                }
            }
        }
    }

    fn now(&self) -> Now {
        Now { moment: self.moment(), wall: Timestamp::now() }
    }

    fn moment(&self) -> Moment {
        Moment::try_from(self.began.elapsed()).unwrap_or(Moment::MAX)
    }

    /// Takes note of what is heard; returns when something was or the time has passed.
    async fn hear(&mut self, limit: Duration) {
        let Ok(event) = tokio::time::timeout(limit, self.events.recv()).await else { return };
        let now = self.moment();
        match event {
            Some(Event::Status(status)) => {
                if self.observed.contact != Contact::Answers {
                    log("the agent answers");
                }
                let used = status.last_activity != status.started;
                self.observed.heard(Heard { idle: status.idle, used }, now);
            }
            Some(Event::Lost(error)) => {
                if self.observed.contact == Contact::Answers {
                    log(format!("the agent does not answer: {}", one_line(&error)));
                }
                self.observed.lost(now);
            }
            // Whoever listens never ends.
            None => std::future::pending().await,
        }
    }

    fn cluster(&mut self) -> Result<&mut Cluster, Refused> {
        let cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => Cluster::new(&self.settings.place).map_err(Refused::from)?,
        };
        Ok(self.cluster.insert(cluster))
    }

    async fn stop(&mut self, reason: Quiet) -> Result<(), Refused> {
        let quiet = self.observed.quiet(self.moment()).as_secs();
        self.cluster()?.stop(Timestamp::now()).await?;
        log(match reason {
            Quiet::Idle => format!("nothing was done for {quiet} s: the workspace is stopped"),
            Quiet::Unreachable => {
                format!("the agent does not answer, for {quiet} s: the workspace is stopped")
            }
        });
        let now = self.moment();
        self.observed.asked_to_stop(now);
        Ok(())
    }

    async fn delete(&mut self) -> Result<(), Refused> {
        let Some(expires) = self.settings.spec.expires else { return Ok(()) };
        match self.cluster()?.delete(expires).await? {
            Deletion::Done => {
                log("its time to live is over: the workspace is deleted");
                // The pod ends with it; nothing else is left to decide.
                std::future::pending().await
            }
            Deletion::TooEarly { time } => Err(Refused::from(
                Error::new(ErrorKind::Conflict, "the clocks of this node and of the API server disagree")
                    .with("expires", expires)
                    .with("server", time),
            )),
        }
    }

    /// After a failure: waits, and takes note meanwhile of what may make it needless.
    async fn after(&mut self, result: Result<(), Refused>) {
        let Err(refused) = result else {
            self.failures = 0;
            return;
        };
        let pause = backoff::pause(self.failures, refused.retry_after, fastrand::f64());
        self.failures = self.failures.saturating_add(1);
        let cause = one_line(&refused.error);
        log(format!("the workspace cannot be ended, again in {:.1} s: {cause}", pause.as_secs_f64()));
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.hear(until.saturating_duration_since(Instant::now())).await;
        }
    }

    /// Writes the pod's conditions when they have changed and that is allowed.
    async fn say_conditions(&mut self) {
        let now = self.moment();
        let conditions = conditions::conditions(&self.observed, &self.settings.spec, now);
        let wanted = self.conditions.allowed && Instant::now() >= self.conditions.not_before;
        if !wanted || conditions == self.conditions.said {
            return;
        }
        let result = match self.cluster() {
            Ok(cluster) => cluster.set_conditions(&conditions, Timestamp::now()).await,
            Err(refused) => Err(refused),
        };
        match result {
            Ok(()) => self.conditions.said = conditions,
            Err(refused) => {
                // They are a service: what is decided does not depend on them.
                self.conditions.allowed = !refused.is_forbidden();
                self.conditions.not_before = Instant::now() + CONDITIONS_PAUSE;
                log(format!("the pod's conditions cannot be written: {}", one_line(&refused.error)));
            }
        }
    }
}

/// Watches the agent for ever.
async fn listen(address: std::net::SocketAddr, token: Token, events: mpsc::Sender<Event>) {
    loop {
        let error = match watch(address, &token, &events).await {
            Ok(()) => return,
            Err(error) => error,
        };
        if events.send(Event::Lost(error)).await.is_err() {
            return;
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// Watches the agent until it is lost. Ends without an error when nobody wants to know any more.
async fn watch(address: std::net::SocketAddr, token: &Token, events: &mpsc::Sender<Event>) -> Result<()> {
    let begin = async { connect(reachable(address), token).await?.watch(INTERVAL).await };
    let begun = tokio::time::timeout(CONNECT_LIMIT, begin).await;
    let mut statuses = begun.unwrap_or_else(|_| Err(Error::timeout("connect", CONNECT_LIMIT)))?;
    loop {
        let status = tokio::time::timeout(SILENCE, statuses.next()).await;
        let status = status.map_err(|_| Error::timeout("watch", SILENCE))?;
        let Some(status) = status.transpose()? else {
            return Err(Error::new(ErrorKind::Unavailable, "the agent has ended"));
        };
        if events.send(Event::Status(status)).await.is_err() {
            return Ok(());
        }
    }
}
