//! The program in memory: a runner on a shared in-memory backend.
#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::sync::Arc;

use kled_cli::{Input, Runner, Supervisor, Surroundings};
use kled_core::provider::{MemoryBackend, MemoryProvider, Provider, ProviderSettings};

/// What a run printed and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: u8,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// All three, as a snapshot.
    pub fn transcript(&self) -> String {
        format!("exit code {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Runs that share one backend.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub backend: MemoryBackend,
}

impl Program {
    pub fn runner(&self) -> Runner {
        let backend = self.backend.clone();
        let factory = move |settings: ProviderSettings| {
            let backend = backend.clone();
            async move {
                settings.finish()?;
                Ok(Arc::new(MemoryProvider::builder().backend(backend).build()) as Arc<dyn Provider>)
            }
        };
        Runner::new(Supervisor::this_program()).provider("memory", factory).default_provider("memory")
    }

    /// Runs one line, split at spaces.
    pub async fn run(&self, line: &str) -> Run {
        self.run_with(line, |_| {}).await
    }

    pub async fn run_with(&self, line: &str, change: impl FnOnce(&mut Surroundings)) -> Run {
        let mut surroundings = Surroundings::in_memory("/");
        change(&mut surroundings);
        let arguments: Vec<_> =
            ["kled"].into_iter().chain(line.split_whitespace()).map(str::to_owned).collect();
        let runner = self.runner().surroundings(surroundings.clone());
        let code = runner.run_async(arguments).await.code();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run {
            code,
            stdout: text(surroundings.stdout.contents()),
            stderr: text(surroundings.stderr.contents()),
        }
    }

    pub async fn run_with_input(&self, line: &str, input: &[u8]) -> Run {
        self.run_with(line, |surroundings| surroundings.stdin = Input::Bytes(input.to_vec())).await
    }
}

/// Identities are random: each UUID becomes `<id>`.
pub fn without_ids(text: &str) -> String {
    let is_id = |word: &str| {
        let lengths: Vec<_> = word.split('-').map(str::len).collect();
        lengths == [8, 4, 4, 4, 12] && word.chars().all(|one| one.is_ascii_hexdigit() || one == '-')
    };
    let mut result = String::new();
    let mut word = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() || character == '-' {
            word.push(character);
            continue;
        }
        result.push_str(if is_id(&word) { "<id>" } else { &word });
        word.clear();
        result.push(character);
    }
    result.pop();
    result
}
