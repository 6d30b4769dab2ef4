//! git over HTTP for pods and for the machine: `git http-backend` behind a server that counts and can ask for a login.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::io::ReaderStream;

use crate::http_server::{self, Body, Connections, HttpServer};
use crate::programs;

/// Serves every repository in a folder, bare or not. It ends when it is dropped.
///
/// ```no_run
/// # async fn example(cluster: &kled_tests::cluster::Cluster) -> anyhow::Result<()> {
/// use kled_tests::git_server::GitServer;
/// use kled_tests::workspaces;
///
/// let folder = tempfile::tempdir()?;
/// workspaces::repository(&folder.path().join("one"), 20)?;
/// workspaces::repository(&folder.path().join("private"), 20)?;
/// let server = GitServer::start(cluster.node().outer_address(), folder.path()).await?;
/// server.protect("private", "user", "secret");
/// println!("git clone {}", server.url("one"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GitServer {
    server: HttpServer,
    state: Arc<State>,
}

/// What someone asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRequest {
    /// `GET` or `POST`.
    pub method: String,
    /// The path, decoded, without the query.
    pub path: String,
    /// Who asked, if it was someone who may.
    pub user: Option<String>,
    /// Whether it was refused for want of a login.
    pub refused: bool,
}

#[derive(Debug)]
struct State {
    folder: PathBuf,
    logins: Mutex<HashMap<String, Login>>,
    requests: Mutex<Vec<GitRequest>>,
}

#[derive(Clone, Debug)]
struct Login {
    user: String,
    authorization: String,
}

impl GitServer {
    /// Serves on a free port of one of the machine's addresses. Pods reach the one of
    /// [`Entrance::outer_address`](crate::enclosure::Entrance::outer_address).
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(address: Ipv4Addr, folder: &Path) -> Result<Self> {
        let (logins, requests) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { folder: folder.to_owned(), logins, requests });
        let answering = state.clone();
        let answer = move |request| answer(answering.clone(), request);
        let server = HttpServer::start(address, Connections::default(), answer).await?;
        Ok(Self { server, state })
    }

    /// Where a repository of the folder is.
    #[must_use]
    pub fn url(&self, repository: &str) -> String {
        format!("http://{}/{repository}", self.server.address())
    }

    /// Asks for a login from now on whenever this repository is wanted. Whoever has it may push, too.
    pub fn protect(&self, repository: &str, user: &str, password: &str) {
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let login = Login { user: user.to_owned(), authorization };
        lock(&self.state.logins).insert(repository.to_owned(), login);
    }

    /// What was asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<GitRequest> {
        lock(&self.state.requests).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Who asks; nothing if they may not.
    fn admit(&self, path: &str, headers: &HeaderMap) -> Option<Option<String>> {
        let repository = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let Some(login) = lock(&self.logins).get(repository).cloned() else { return Some(None) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        (given == Some(login.authorization.as_str())).then_some(Some(login.user))
    }

    fn backend(&self, request: &Request<Incoming>, path: &str, user: Option<&str>) -> Result<Child> {
        let mut command = Command::new(programs::find("git").context("no program git")?);
        command.arg("http-backend").current_dir(&self.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        // Whose the repositories are is the test's affair.
        command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory");
        command.env("GIT_CONFIG_VALUE_0", "*");
        command.env("GIT_PROJECT_ROOT", &self.folder).env("GIT_HTTP_EXPORT_ALL", "1");
        command.env("REQUEST_METHOD", request.method().as_str()).env("PATH_INFO", path);
        command.env("QUERY_STRING", request.uri().query().unwrap_or_default());
        for (variable, name) in [
            ("CONTENT_TYPE", "content-type"),
            ("CONTENT_LENGTH", "content-length"),
            ("HTTP_CONTENT_ENCODING", "content-encoding"),
            ("HTTP_GIT_PROTOCOL", "git-protocol"),
        ] {
            if let Some(value) = request.headers().get(name).and_then(|value| value.to_str().ok()) {
                command.env(variable, value);
            }
        }
        if let Some(user) = user {
            command.env("REMOTE_USER", user);
        }
        command.spawn().context("start git http-backend")
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>> {
    let path =
        percent_decode_str(request.uri().path()).decode_utf8().context("decode the path")?.into_owned();
    let admitted = state.admit(&path, request.headers());
    lock(&state.requests).push(GitRequest {
        method: request.method().to_string(),
        path: path.clone(),
        user: admitted.clone().flatten(),
        refused: admitted.is_none(),
    });
    let Some(user) = admitted else {
        let refusal = Response::builder().status(StatusCode::UNAUTHORIZED);
        let refusal = refusal.header(header::WWW_AUTHENTICATE, "Basic realm=\"git\"");
        return Ok(refusal.body(http_server::whole("a login is needed\n"))?);
    };
    let mut backend = state.backend(&request, &path, user.as_deref())?;
    let input = backend.stdin.take().context("git http-backend has no input")?;
    let output = backend.stdout.take().context("git http-backend has no output")?;
    tokio::spawn(feed(request.into_body(), input));
    let answer = read_answer(BufReader::new(output)).await;
    // It ends when it has said everything, or when nobody listens any more; its end is waited for, not its status.
    tokio::spawn(async move { backend.wait().await });
    answer
}

/// Hands the request's body on. A backend that has heard enough closes its end, which is no error.
async fn feed(mut body: Incoming, mut input: ChildStdin) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data()
            && input.write_all(&data).await.is_err()
        {
            return;
        }
    }
}

/// Makes a response of what a CGI program says: headers, among them the status, an empty line, and the body.
async fn read_answer(mut output: BufReader<ChildStdout>) -> Result<Response<Body>> {
    let mut response = Response::new(());
    loop {
        let mut line = String::new();
        output.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").with_context(|| format!("{line:?} is no header"))?;
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            *response.status_mut() = code.parse().map_err(|_| anyhow!("{value:?} is no status"))?;
        } else {
            response.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::from_str(value)?);
        }
    }
    let frames = ReaderStream::new(output).map_ok(Frame::<Bytes>::data);
    Ok(response.map(|()| StreamBody::new(frames).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces;

    async fn git(folder: &Path, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new("git");
        command.args(["-c", "credential.helper="]).args(arguments).current_dir(folder);
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null");
        Ok(command.output().await?)
    }

    async fn serve() -> Result<(tempfile::TempDir, GitServer)> {
        let folder = tempfile::tempdir()?;
        workspaces::repository(&folder.path().join("one"), 300)?;
        let server = GitServer::start(Ipv4Addr::LOCALHOST, folder.path()).await?;
        Ok((folder, server))
    }

    #[tokio::test]
    async fn a_repository_is_cloned_and_the_requests_are_counted() -> Result<()> {
        let (folder, server) = serve().await?;
        let said = git(folder.path(), &["clone", "--quiet", &server.url("one"), "clone"]).await?;
        assert!(said.status.success(), "{said:?}");
        assert!(folder.path().join("clone/source/002/00299.txt").exists());
        let requests = server.requests();
        assert_eq!(requests[0].method, "GET");
        assert_eq!(requests[0].path, "/one/info/refs");
        assert!(requests.len() >= 2 && requests.iter().all(|request| !request.refused), "{requests:?}");
        let absent = git(folder.path(), &["clone", "--quiet", &server.url("absent"), "other"]).await?;
        assert!(String::from_utf8_lossy(&absent.stderr).contains("not found"), "{absent:?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_protected_repository_demands_its_login() -> Result<()> {
        let (folder, server) = serve().await?;
        server.protect("one", "user", "secret");
        let refused = git(folder.path(), &["clone", "--quiet", &server.url("one"), "clone"]).await?;
        assert!(!refused.status.success() && server.requests().iter().all(|request| request.refused));
        let wrong = server.url("one").replace("http://", "http://user:guess@");
        assert!(!git(folder.path(), &["clone", "--quiet", &wrong, "clone"]).await?.status.success());
        let url = server.url("one").replace("http://", "http://user:secret@");
        let said = git(folder.path(), &["clone", "--quiet", &url, "clone"]).await?;
        assert!(said.status.success(), "{said:?}");
        assert_eq!(server.requests().last().and_then(|request| request.user.as_deref()), Some("user"));
        Ok(())
    }

    #[tokio::test]
    async fn a_dropped_server_answers_no_more() -> Result<()> {
        let (folder, server) = serve().await?;
        let url = server.url("one");
        drop(server);
        tokio::task::yield_now().await;
        assert!(!git(folder.path(), &["ls-remote", &url]).await?.status.success());
        Ok(())
    }
}
