//! Real repositories and the real servers of git, on the loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// git without the configuration of whoever runs the tests.
fn git_command(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(directory).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for variable in ["AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"] {
        command.env(format!("GIT_{variable}"), "test@example.com");
    }
    command
}

pub(super) fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = git_command(directory).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with a history: two commits on `main`, a branch, tags and two folders.
pub(super) struct Repository {
    folder: TempDir,
}

impl Repository {
    pub(super) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Self { folder };
        std::fs::create_dir(repository.path()).unwrap();
        git(&repository.path(), &["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    pub(super) fn new() -> Self {
        let repository = Self::empty();
        repository.commit("readme.txt", "one");
        repository.git(&["tag", "light"]);
        repository.git(&["tag", "--annotate", "--message=x", "annotated"]);
        repository.git(&["tag", "both"]);
        repository.git(&["branch", "feature/one"]);
        repository.commit("web/index.txt", "web");
        repository.commit("api/main.txt", "api");
        repository.git(&["branch", "both"]);
        repository
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("app with 100%")
    }

    /// The folder that holds the repository, which servers export.
    pub(super) fn parent(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn git(&self, arguments: &[&str]) -> String {
        git(&self.path(), arguments)
    }

    pub(super) fn commit(&self, file: &str, content: &str) -> String {
        let file = self.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(super) fn revision(&self, name: &str) -> String {
        self.git(&["rev-parse", &format!("{name}^{{commit}}")])
    }
}

/// `git daemon`.
pub(super) struct Daemon {
    child: Child,
    pub(super) port: u16,
}

impl Daemon {
    pub(super) fn start(base: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = git_command(base)
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"])
            .args([format!("--port={port}"), format!("--base-path={}", base.display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "git daemon does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It forks for each connection; these end with their connections.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A server that accepts connections and says nothing until it is dropped.
pub(super) struct SilentServer {
    pub(super) port: u16,
    listener: TcpListener,
    client: Mutex<Option<TcpStream>>,
}

impl SilentServer {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { port: listener.local_addr().unwrap().port(), listener, client: Mutex::default() }
    }

    /// True when somebody waits for an answer.
    pub(super) fn is_asked(&self) -> bool {
        let mut client = self.client.lock().unwrap();
        if client.is_none() {
            *client = self.listener.accept().ok().map(|(stream, _)| stream);
        }
        let Some(stream) = &*client else { return false };
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut [0]).is_ok_and(|length| length > 0)
    }
}

/// `git http-backend` behind a small HTTP server that asks for the login `user:secret`.
pub(super) struct HttpServer {
    pub(super) port: u16,
}

impl HttpServer {
    pub(super) fn start(base: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let base = base.to_owned();
        // It ends with the test's process; a test that fails must not wait for it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let base = base.clone();
                std::thread::spawn(move || answer(&stream.unwrap(), &base));
            }
        });
        Self { port }
    }
}

/// One request; the connection is closed after it.
fn answer(mut stream: &TcpStream, base: &Path) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap_or("/").to_owned());
    let headers: Vec<_> = reader
        .by_ref()
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let header = |name: &str| headers.iter().find(|pair| pair.0 == name).map_or("", |pair| &pair.1);
    // user:secret
    if header("authorization") != "Basic dXNlcjpzZWNyZXQ=" {
        let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(refusal.as_bytes()).unwrap();
        return;
    }
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut backend = git_command(base)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", base)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path.replace("%20", " ").replace("%25", "%"))
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    backend.stdin.take().unwrap().write_all(&body).unwrap();
    let output = backend.wait_with_output().unwrap().stdout;
    let status = output.strip_prefix(b"Status: ").map_or("200 OK", |rest| {
        std::str::from_utf8(rest.split(|byte| *byte == b'\r').next().unwrap()).unwrap()
    });
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n").unwrap();
    stream.write_all(&output).unwrap();
}
