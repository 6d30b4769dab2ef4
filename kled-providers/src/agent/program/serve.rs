//! `kled-agent serve`: the first process of the workspace's container.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use jiff::Timestamp;
use kled_core::provider::Variables;
use kled_core::workspace::StopReason;
use kled_core::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::net::Listener;
use tonic_health::ServingStatus;

use super::environment::{self, Surroundings};
use super::log::log;
use super::settings::{self, Settings};
use super::{cleanup, health, one_line, runtime};
use crate::agent::Token;
use crate::agent::clock::sleep_until;
use crate::agent::ending::{EXPIRED, IDLE};
use crate::agent::server::{Agent, Configuration};

/// The name under which the kubelet may ask for the agent's health; the empty one is for the process.
const SERVICE: &str = "kled.agent.v1.Agent";

/// Serves the workspace until it is told to end, and says by its code why it has.
pub(super) fn main() -> Result<ExitCode> {
    let served = serve();
    if let Err(error) = &served {
        // The provider reads this output only.
        log(format!("the agent cannot serve: {}", one_line(error)));
    }
    served
}

fn serve() -> Result<ExitCode> {
    let settings = Settings::read(settings::of_process)?;
    let token = if settings.makes_token {
        settings::make_token(&settings.token_file)?
    } else {
        settings::read_token(&settings.token_file)?
    };
    let environment = environment_of_commands(&settings);
    apply(&environment);
    adopt_orphans()?;
    let runtime = runtime()?;
    let result = runtime.block_on(run(settings, token, environment));
    // A file system that hangs must not keep the container from ending.
    runtime.shutdown_background();
    result
}

fn environment_of_commands(settings: &Settings) -> Variables {
    let user = rustix::process::geteuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let owner = settings.checkout.metadata().map(|metadata| metadata.uid());
    let surroundings = Surroundings {
        is_writable: environment::is_writable,
        user: environment::user_name(&passwd, user),
        foreign_checkout: owner.is_ok_and(|owner| owner != user),
    };
    // What is not text is left out: it cannot travel in the protocol either.
    let inherited = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    environment::of_commands(inherited, settings, surroundings)
}

/// Gives the agent's own git what commands have: it reads its settings and logins in the home folder, too.
fn apply(environment: &Variables) {
    for (name, value) in &environment.0 {
        // SAFETY: the runtime is not started yet, so this is the process's only thread; nobody reads the environment.
        unsafe { std::env::set_var(name, value) };
    }
}

/// True when every process of the container descends from this one.
fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Orphans come to the first process of a container anyway; elsewhere they have to be asked for.
fn adopt_orphans() -> Result<()> {
    #[cfg(target_os = "linux")]
    if !is_first_process() {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|cause| {
            Error::new(ErrorKind::Internal, "orphaned processes cannot be taken over").because(cause)
        })?;
    }
    Ok(())
}

async fn run(settings: Settings, token: Token, environment: Variables) -> Result<ExitCode> {
    let deaf = |cause| Error::new(ErrorKind::Internal, "signals cannot be heard").because(cause);
    let terminate = signal(SignalKind::terminate()).map_err(deaf)?;
    let listener = listen(settings.listen).await?;
    // The port may have been left to the machine.
    let address = listener.local_addr().unwrap_or(settings.listen);
    let health_listener = match settings.health_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let agent = Agent::new(Configuration {
        id: settings.id,
        token,
        checkout: Some(settings.checkout.clone()),
        state: Some(settings.state.clone()),
        working_directory: settings.working_directory.clone(),
        environment,
        // Absent where who decides that is outside of the container: it has to scale the workspace down.
        idle_timeout: settings.idle_timeout,
        has_own_processes: is_first_process(),
        drivers_are_far: true,
        log: Arc::new(|line| super::log::write(&line)),
    });
    // A killed agent may have left some.
    clean_up(&agent, "credentials cannot be removed", &settings.state, cleanup::wipe_credentials).await;
    let health = health_listener.map(health::serve);
    if let Some(health) = &health {
        health.set_service_status(SERVICE, ServingStatus::Serving).await;
    }
    let has_expired = Arc::new(AtomicBool::new(false));
    if let Some(expires) = settings.expires {
        tokio::spawn(expire(agent.clone(), expires, Arc::clone(&has_expired)));
    }
    agent.log(format!("serving workspace {} on {}", settings.name, address));
    let ended = agent.run_until(terminate, Prompt(listener), settings.grace).await;
    if let Some(health) = &health {
        for service in ["", SERVICE] {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
    clean_up(&agent, "credentials cannot be removed", &settings.state, cleanup::wipe_credentials).await;
    let limit = settings.cache_bytes;
    let shrink = move |state: &Path| cleanup::shrink_cache(state, limit).map(drop);
    clean_up(&agent, "the cache cannot be made smaller", &settings.state, shrink).await;
    let reason = ended.map_err(deaf)?;
    agent.log(format!("ended: {reason}"));
    Ok(match reason {
        _ if has_expired.load(Ordering::SeqCst) => ExitCode::from(EXPIRED),
        StopReason::Idle => ExitCode::from(IDLE),
        _ => ExitCode::SUCCESS,
    })
}

/// Ends the workspace at the end of its time to live.
async fn expire(agent: Agent, expires: Timestamp, has_expired: Arc<AtomicBool>) {
    sleep_until(expires).await;
    agent.log("its time to live is over");
    has_expired.store(true, Ordering::SeqCst);
    agent.end();
}

/// Its connections do not wait for the answer to one small packet before they send the next.
struct Prompt(TcpListener);

impl Listener for Prompt {
    type Io = TcpStream;
    type Addr = std::net::SocketAddr;

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<(Self::Io, Self::Addr)>> {
        self.0.poll_accept(context).map_ok(|(stream, address)| {
            // Without it everything is slower and nothing is wrong.
            let _slower = stream.set_nodelay(true);
            (stream, address)
        })
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the agent cannot listen").with("address", address).because(cause)
    })
}

/// Does a part of the cleanup, within its time. A failure is in the log: nothing better can be done with it.
async fn clean_up(
    agent: &Agent,
    what: &str,
    state: &Path,
    part: impl FnOnce(&Path) -> std::io::Result<()> + Send + 'static,
) {
    let state = state.to_owned();
    let part = tokio::task::spawn_blocking(move || part(&state));
    match tokio::time::timeout(cleanup::LIMIT, part).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(cause))) => agent.log(format!("{what}: {cause}")),
        Ok(Err(_)) => agent.log(what),
        Err(_) => agent.log(format!("{what}: it takes too long")),
    }
}
