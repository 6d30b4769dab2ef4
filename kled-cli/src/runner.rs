//! The program.

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use futures::future::BoxFuture;
use kled_core::provider::{Provider, ProviderSettings, Registry};
use kled_core::{Error, ErrorKind, ProviderName, Result};

use crate::arguments::{Arguments, GlobalArguments};
use crate::commands::{self, CustomCommand, Signals};
use crate::config::Settings;
use crate::output::{Color, Failure, Format, report};
use crate::providers::{self, Supervisor};
use crate::{Context, Exit, Sink, Surroundings};

/// The program's name where nobody gives it another.
const OWN_NAME: &str = "kled";

/// The program `kled`, to be given providers and commands of one's own.
///
/// Setters never fail: what is wrong with their values is the error of the run.
pub struct Runner {
    program: String,
    version: String,
    default_provider: String,
    registry: Result<Registry>,
    commands: Vec<Box<dyn CustomCommand>>,
    surroundings: Option<Surroundings>,
}

/// Which command a line names.
enum Chosen<'a> {
    Own(Box<commands::Command>),
    Custom(&'a dyn CustomCommand, ArgMatches),
}

impl Runner {
    /// The program with its own providers. [`Supervisor::this_program`] must be the first call of `main`: in a process
    /// that was started to supervise a workspace it does not return.
    #[must_use]
    pub fn new(supervisor: Supervisor) -> Self {
        Self {
            program: OWN_NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            default_provider: providers::DEFAULT.into(),
            registry: providers::registered(supervisor),
            commands: Vec::new(),
            surroundings: None,
        }
    }

    /// Names the program in its help.
    #[must_use]
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.program = name.into();
        self
    }

    /// The program's version.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds a provider, as [`Registry::register`] does.
    #[must_use]
    pub fn provider<F, R>(mut self, name: &str, factory: F) -> Self
    where
        F: Fn(ProviderSettings) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn Provider>>> + Send + 'static,
    {
        self.registry = self.registry.and_then(|mut registry| {
            registry.register(ProviderName::new(name)?, factory)?;
            Ok(registry)
        });
        self
    }

    /// The provider that is used when nobody says anything else.
    #[must_use]
    pub fn default_provider(mut self, name: impl Into<String>) -> Self {
        self.default_provider = name.into();
        self
    }

    /// Adds a command. One with the name of an existing command takes its place.
    #[must_use]
    pub fn command(mut self, command: impl CustomCommand) -> Self {
        self.commands.push(Box::new(command));
        self
    }

    /// Runs in other surroundings than those of the process.
    #[must_use]
    pub fn surroundings(mut self, surroundings: Surroundings) -> Self {
        self.surroundings = Some(surroundings);
        self
    }

    /// Runs one command line, of which the first item is the program's own name. Starts a runtime for it.
    pub fn run<I>(self, arguments: I) -> ExitCode
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        // One thread: a command line makes one call at a time, and starts faster so.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => {
                let error = Error::new(ErrorKind::Internal, "the runtime cannot be started").because(cause);
                let text = report(&error, Exit::FAILURE, &self.program, Format::Table, false);
                drop(Sink::Stderr.write(text.as_bytes()));
                return Exit::FAILURE.into();
            }
        };
        let exit = runtime.block_on(self.run_async(arguments));
        // A thread may still wait for a key on standard input; nothing needs its end.
        runtime.shutdown_background();
        exit.into()
    }

    /// Runs one command line in the caller's runtime.
    pub fn run_async<I>(self, arguments: I) -> BoxFuture<'static, Exit>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Box::pin(self.run_line(arguments))
    }

    async fn run_line(mut self, arguments: Vec<OsString>) -> Exit {
        let surroundings = match self.surroundings.take().map_or_else(Surroundings::of_process, Ok) {
            Ok(surroundings) => surroundings,
            Err(error) => return Reporting::plain(self.program).failure(&error.into()),
        };
        let reporting = Reporting::early(&self.program, &arguments, &surroundings);
        let (global, chosen) = match self.parse(&arguments) {
            Ok(parsed) => parsed,
            Err(error) => return reporting.command_line(&error, &surroundings),
        };
        start_tracing(global.verbose);
        match self.context(global, surroundings, arguments) {
            Err(error) => reporting.failure(&error.into()),
            Ok(context) => match execute(&context, &chosen).await {
                Ok(exit) => exit,
                Err(failure) => Reporting::of(&context).failure(&failure),
            },
        }
    }

    fn definition(&self) -> clap::Command {
        let mut definition = Arguments::command()
            .name(self.program.clone())
            .bin_name(self.program.clone())
            .version(self.version.clone())
            .after_help(commands::AFTER_HELP)
            .after_long_help(commands::after_long_help());
        for command in &self.commands {
            let custom = command.definition();
            let name = custom.get_name().to_owned();
            definition = if definition.find_subcommand(&name).is_some() {
                definition.mut_subcommand(name, |_| custom)
            } else {
                definition.subcommand(custom)
            };
        }
        renamed(definition, &self.program)
    }

    fn parse(&self, arguments: &[OsString]) -> Result<(GlobalArguments, Chosen<'_>), clap::Error> {
        let mut matches = self.definition().try_get_matches_from(arguments)?;
        if let Some((name, custom)) = matches.subcommand()
            && let Some(command) =
                self.commands.iter().find(|command| command.definition().get_name() == name)
        {
            let global = GlobalArguments::from_arg_matches(&matches)?;
            return Ok((global, Chosen::Custom(command.as_ref(), custom.clone())));
        }
        let parsed = Arguments::from_arg_matches_mut(&mut matches)?;
        Ok((parsed.global, Chosen::Own(Box::new(parsed.command))))
    }

    fn context(
        &self,
        global: GlobalArguments,
        surroundings: Surroundings,
        arguments: Vec<OsString>,
    ) -> Result<Context> {
        let registry = match &self.registry {
            Ok(registry) => registry.clone(),
            // The error itself cannot be cloned; all that it says can.
            Err(error) => return Err(Error::new(error.kind(), error.to_string())),
        };
        let settings =
            Settings::load(&global.layer(), global.config.as_deref(), &surroundings, &self.default_provider)?;
        Ok(Context {
            settings,
            registry,
            surroundings,
            global,
            arguments: arguments.into_iter().skip(1).collect(),
            program: self.program.clone(),
            definition: self.definition(),
        })
    }
}

/// The examples in the help texts, with the program's own name.
fn renamed(definition: clap::Command, program: &str) -> clap::Command {
    if program == OWN_NAME {
        return definition;
    }
    let rename = |text: &clap::builder::StyledStr| {
        text.to_string().replace(&format!("{OWN_NAME} "), &format!("{program} "))
    };
    let short = definition.get_after_help().map(rename);
    let long = definition.get_after_long_help().map(rename);
    let definition = definition.mut_subcommands(|command| renamed(command, program));
    let definition = short.into_iter().fold(definition, clap::Command::after_help);
    long.into_iter().fold(definition, clap::Command::after_long_help)
}

impl fmt::Debug for Runner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Runner")
            .field("program", &self.program)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// Runs the command; a signal drops it, unless it deals with signals itself.
async fn execute(context: &Context, chosen: &Chosen<'_>) -> Result<Exit, Failure> {
    let own_signals = matches!(chosen, Chosen::Own(command) if command.takes_signals());
    let running: BoxFuture<'_, _> = match chosen {
        Chosen::Own(command) => Box::pin(command.run(context)),
        Chosen::Custom(command, matches) => Box::pin(command.run(context, matches)),
    };
    if own_signals || !context.surroundings.catches_signals {
        return running.await;
    }
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = running => result,
        signal = signals.next() => {
            let error = Error::new(ErrorKind::Cancelled, "interrupted")
                .hint("run the same command again to go on, or delete the workspace");
            Err(Failure::WithExit(error, Exit::of_signal(signal.number())))
        }
    }
}

/// How errors are printed.
struct Reporting {
    program: String,
    sink: Sink,
    format: Format,
    color: bool,
}

impl Reporting {
    /// Before anything is known.
    const fn plain(program: String) -> Self {
        Self { program, sink: Sink::Stderr, format: Format::Table, color: false }
    }

    /// Before the command line and the configuration are understood: what can be told of them without.
    fn early(program: &str, arguments: &[OsString], surroundings: &Surroundings) -> Self {
        // Where `-o` names a file it is no format, and says nothing about the format.
        let format = early_value(arguments, "--output", Some("-o"))
            .and_then(|text| text.parse().ok())
            .or_else(|| surroundings.variable("KLED_OUTPUT")?.parse().ok());
        let color = early_value(arguments, "--color", None)
            .or_else(|| surroundings.variable("KLED_COLOR").map(str::to_owned));
        let color: Color = color.and_then(|text| text.parse().ok()).unwrap_or_default();
        Self {
            program: program.to_owned(),
            format: format.unwrap_or_default(),
            color: color.applies_to(&surroundings.stderr, surroundings),
            sink: surroundings.stderr.clone(),
        }
    }

    fn of(context: &Context) -> Self {
        let surroundings = &context.surroundings;
        Self {
            program: context.program.clone(),
            sink: surroundings.stderr.clone(),
            format: context.settings.output,
            color: context.settings.color.applies_to(&surroundings.stderr, surroundings),
        }
    }

    fn failure(&self, failure: &Failure) -> Exit {
        for error in failure.errors() {
            let exit = if let Failure::WithExit(_, exit) = failure { *exit } else { Exit::of_error(error) };
            // Nobody reads it: the exit code still tells.
            drop(self.sink.write(report(error, exit, &self.program, self.format, self.color).as_bytes()));
        }
        failure.exit()
    }

    /// Help and versions are results; what is wrong with the command line is an error.
    fn command_line(&self, error: &clap::Error, surroundings: &Surroundings) -> Exit {
        let rendered = error.render();
        let text = |color: bool| if color { rendered.ansi().to_string() } else { rendered.to_string() };
        if !error.use_stderr() {
            let color = self.color && surroundings.stdout.is_terminal();
            return match surroundings.stdout.write(text(color).as_bytes()) {
                Ok(()) => Exit::SUCCESS,
                Err(cause) => self.failure(&Failure::of_output(cause)),
            };
        }
        if self.format == Format::Table {
            drop(self.sink.write(text(self.color).as_bytes()));
            return Exit::USAGE;
        }
        // The first paragraph is the error; usage and advice follow.
        let plain = rendered.to_string();
        let paragraph = plain.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        let message = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        self.failure(&Error::new(ErrorKind::InvalidInput, message).hint("see --help").into())
    }
}

/// The value of an option in a line that may not be well formed. What follows `--` belongs to a command.
fn early_value(arguments: &[OsString], long: &str, short: Option<&str>) -> Option<String> {
    let texts: Vec<_> =
        arguments.iter().map_while(|text| text.to_str()).take_while(|text| *text != "--").collect();
    texts.iter().enumerate().find_map(|(index, text)| {
        if *text == long || Some(*text) == short {
            return texts.get(index + 1).map(|value| (*value).to_owned());
        }
        let joined = text.strip_prefix(long).and_then(|rest| rest.strip_prefix('='));
        joined
            .or_else(|| text.strip_prefix(short?).map(|rest| rest.trim_start_matches('=')))
            .map(str::to_owned)
    })
}

/// `-v` says what is done. An application that has a subscriber of its own keeps it.
fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let subscriber =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(level);
    let _kept = tracing::subscriber::set_global_default(subscriber.finish());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_format_is_seen_in_a_malformed_line() {
        let value = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            early_value(&arguments, "--output", Some("-o"))
        };
        for line in
            ["kled -o json", "kled x --output json", "kled --output=json", "kled -ojson", "kled -o=json"]
        {
            assert_eq!(value(line).as_deref(), Some("json"), "{line}");
        }
        for line in ["kled", "kled exec x -- -o json", "kled -o"] {
            assert_eq!(value(line), None, "{line}");
        }
    }
}
