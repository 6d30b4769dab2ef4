//! A proxy in front of an API server that notes every request and breaks those that it is told to break.

mod fault;
mod request;
mod tunnel;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::upgrade;
use kube::client::Body as KubeBody;

pub use self::fault::Fault;
pub use self::request::{ApiRequest, Verb};
pub use self::tunnel::Direction;

use self::fault::Effect;
use self::tunnel::Limits;
use crate::http_server::{self, Body, Connections, HttpServer};
use crate::kubeconfig;

/// No request that an API server takes is larger.
const BODY_LIMIT: usize = 16 << 20;

/// Hop-by-hop headers, which a proxy does not pass on.
const HOP_HEADERS: [&str; 4] = ["connection", "keep-alive", "te", "transfer-encoding"];

/// The proxy. It hands requests on with all rights; dropping it cuts everything off.
///
/// Watches, logs and upgraded connections (exec, attach, port-forward) stream through it.
///
/// ```no_run
/// # async fn example(cluster: &kled_tests::cluster::Cluster) -> anyhow::Result<()> {
/// use kled_tests::fault_proxy::{Direction, Fault, FaultProxy, Verb};
///
/// let proxy = FaultProxy::start(cluster.kubeconfig()).await?;
/// let client = kled_tests::kubeconfig::client(proxy.kubeconfig()).await?;
/// proxy.break_at(3, Fault::TOO_MANY_REQUESTS);
/// proxy.break_next(|request| request.verb == Verb::Create && request.resource == "pods", Fault::CUT.after());
/// proxy.cut_streams(Direction::FromServer, 1000);
/// # drop(client);
/// proxy.clear();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FaultProxy {
    server: HttpServer,
    state: Arc<State>,
    kubeconfig: PathBuf,
}

struct State {
    upstream: kube::Client,
    connections: Connections,
    plan: Mutex<Plan>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").field("requests", &self.plan().requests).finish_non_exhaustive()
    }
}

/// What was asked for, and what shall be broken.
#[derive(Default)]
struct Plan {
    requests: Vec<ApiRequest>,
    rules: Vec<Rule>,
    limits: Limits,
}

/// Whether a request at a place is meant.
type Condition = Box<dyn Fn(usize, &ApiRequest) -> bool + Send>;

struct Rule {
    applies: Condition,
    once: bool,
    fault: Fault,
}

impl FaultProxy {
    /// Starts a proxy of the API server that a kubeconfig leads to, with the rights that it gives.
    ///
    /// The proxy's own kubeconfig lies beside that one, and so is swept with whatever fixture it belongs to.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read, or no port is free.
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        let upstream = kubeconfig::client_without_retries(kubeconfig).await?;
        let connections = Connections::default();
        let state = State { upstream, connections: connections.clone(), plan: Mutex::default() };
        let state = Arc::new(state);
        let answering = state.clone();
        let answer = move |request| answer(answering.clone(), request);
        let server = HttpServer::start(Ipv4Addr::LOCALHOST, connections, answer).await?;
        let address = server.address();
        let directory = kubeconfig.parent().context("a kubeconfig is in a directory")?;
        let kubeconfig = directory.join(format!("fault-proxy-{}.kubeconfig", address.port()));
        kubeconfig::write_plain(&kubeconfig, &format!("http://{address}"))?;
        Ok(Self { server, state, kubeconfig })
    }

    /// A kubeconfig file that leads through the proxy.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Every request since the start or the last [`FaultProxy::clear`], in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.state.plan().requests.clone()
    }

    /// Breaks the request that will be at this place in [`FaultProxy::requests`].
    pub fn break_at(&self, index: usize, fault: Fault) {
        self.rule(true, fault, move |at, _| at == index);
    }

    /// Breaks the next request of a kind.
    pub fn break_next(&self, is_of_kind: impl Fn(&ApiRequest) -> bool + Send + 'static, fault: Fault) {
        self.rule(true, fault, move |_, request| is_of_kind(request));
    }

    /// Breaks all requests of a kind, until [`FaultProxy::clear`].
    pub fn break_all(&self, is_of_kind: impl Fn(&ApiRequest) -> bool + Send + 'static, fault: Fault) {
        self.rule(false, fault, move |_, request| is_of_kind(request));
    }

    /// Cuts each connection that is upgraded from now on, until [`FaultProxy::clear`], after so many bytes.
    pub fn cut_streams(&self, direction: Direction, bytes: u64) {
        self.state.plan().limits.set(direction, bytes);
    }

    /// Cuts every connection that is open now: upgraded ones, watches, idle ones, and those that hang.
    pub fn cut_open(&self) {
        self.state.connections.cut();
    }

    /// Forgets the requests and breaks no more. What is broken already stays so.
    pub fn clear(&self) {
        *self.state.plan() = Plan::default();
    }

    fn rule(&self, once: bool, fault: Fault, applies: impl Fn(usize, &ApiRequest) -> bool + Send + 'static) {
        self.state.plan().rules.push(Rule { applies: Box::new(applies), once, fault });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // It may be gone with the directory of its fixture.
        let _gone = fs::remove_file(&self.kubeconfig);
    }
}

impl State {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request on as it is.
    async fn forward(&self, request: Request<Incoming>) -> Result<Response<KubeBody>> {
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(header::HOST);
        if !parts.headers.contains_key(header::UPGRADE) {
            HOP_HEADERS.iter().for_each(|name| drop(parts.headers.remove(*name)));
        }
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body.map_err(|error| anyhow!(error)).context("read the request")?.to_bytes();
        let request = Request::from_parts(parts, KubeBody::from(body.to_vec()));
        self.upstream.send(request).await.context("ask the API server")
    }
}

impl Plan {
    /// Notes a request; gives what shall go wrong with it.
    fn note(&mut self, mut request: ApiRequest) -> Option<Fault> {
        let index = self.requests.len();
        let rule = self.rules.iter().position(|rule| (rule.applies)(index, &request));
        request.fault = rule.map(|rule| self.rules[rule].fault);
        if let Some(rule) = rule.filter(|rule| self.rules[*rule].once) {
            self.rules.remove(rule);
        }
        let fault = request.fault;
        self.requests.push(request);
        fault
    }
}

async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Result<Response<Body>> {
    let asked = ApiRequest::read(request.method(), request.uri());
    let fault = state.plan().note(asked.clone());
    match fault {
        None => {
            let upgrade = upgrade::on(&mut request);
            let response = state.forward(request).await?;
            Ok(hand_back(&state, response, upgrade))
        }
        Some(fault) => {
            if fault.is_after() {
                let response = state.forward(request).await?;
                // The answer's head says that it is done, unless it streams, and then it never is.
                drop(response);
            }
            break_off(fault, &asked).await
        }
    }
}

async fn break_off(fault: Fault, asked: &ApiRequest) -> Result<Response<Body>> {
    match fault.effect() {
        Effect::Answer(status) => fault::answer(status, asked),
        Effect::Hang => std::future::pending().await,
        Effect::Cut => bail!("cut off"),
    }
}

fn hand_back(
    state: &State,
    mut response: Response<KubeBody>,
    downstream: upgrade::OnUpgrade,
) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = upgrade::on(&mut response);
        let limits = state.plan().limits;
        state.connections.spawn(tunnel::run(downstream, upstream, limits));
        return response.map(|_| http_server::whole(""));
    }
    HOP_HEADERS.iter().for_each(|name| drop(response.headers_mut().remove(*name)));
    response.map(|body| body.map_err(io::Error::other).boxed_unsync())
}
