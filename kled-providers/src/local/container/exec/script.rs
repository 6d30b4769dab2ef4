//! The scripts that the image's `sh` runs. They use its built-in commands only, but for `cat` where secrets are
//! handed over.

use kled_core::provider::{Command, StandardInput};
use kled_core::{Error, ErrorKind, Secret};

/// The variable by which everything that a command starts is known.
pub(super) const TOKEN_VARIABLE: &str = "KLED_EXEC";

/// The last line before the command's own output in a terminal.
pub(super) const GOES_ON: &str = "=";

/// Arguments: mode (`terminal`, `detached`, `piped`, `empty`), folder, file of secrets or nothing, the command.
///
/// The first line of output is `+PROCESS`, or why there is none. It looks for the command by itself, because a shell
/// would take one of its own built-in commands, and could not tell a missing command from one that exits with 127. Its
/// own variables have a prefix, so that they take the place of none of the command's.
pub(super) const RUN: &str = "\
kled_mode=$1 kled_folder=$2 kled_secrets=$3
shift 3
if [ -n \"$kled_secrets\" ]; then
  . \"$kled_secrets\"
  : > \"$kled_secrets\"
  rm -f \"$kled_secrets\"
fi
cd \"$kled_folder\" 2>/dev/null || { echo '!folder'; exit 126; }
kled_found=
case $1 in
  */*) [ -e \"$1\" ] && kled_found=$1 ;;
  *)
    kled_old=$IFS
    IFS=:
    set -f
    for kled_entry in $PATH; do
      [ -z \"$kled_found\" ] && [ -f \"${kled_entry:-.}/$1\" ] && [ -x \"${kled_entry:-.}/$1\" ] && kled_found=${kled_entry:-.}/$1
    done
    set +f
    IFS=$kled_old
    ;;
esac
[ -n \"$kled_found\" ] || { echo '!command'; exit 127; }
[ -x \"$kled_found\" ] && [ ! -d \"$kled_found\" ] || { echo '!permission'; exit 126; }
unset kled_folder kled_secrets kled_found kled_entry kled_old
echo \"+$$\"
case $kled_mode in
  terminal) read -r kled_mode; unset kled_mode; echo '='; exec \"$@\" ;;
  detached) unset kled_mode; exec \"$@\" > /proc/1/fd/1 2> /proc/1/fd/2 < /dev/null ;;
  empty) unset kled_mode; exec \"$@\" < /dev/null ;;
  *) unset kled_mode; exec \"$@\" ;;
esac
";

/// Argument: the file. Writes it from standard input, for the container's user alone.
pub(super) const HAND_OVER: &str = "umask 077; cat > \"$1\"";

/// Arguments: signal, process. Sends a signal to the process's group.
pub(super) const SIGNAL: &str = "kill -\"$1\" \"-$2\"";

/// Arguments: process (0 if it is not known), token, file of secrets. Kills the session of the process and everything
/// that has the token in its environment, until nothing of them is left.
pub(super) const END: &str = "\
leader=$1 token=$2
rm -f \"$3\" 2>/dev/null
rounds=0
while [ $rounds -lt 50 ]; do
  rounds=$((rounds + 1))
  hit=
  for folder in /proc/[0-9]*; do
    process=${folder#/proc/}
    { IFS= read -r state < \"$folder/stat\"; } 2>/dev/null || continue
    set -- ${state##*) }
    [ \"$1\" = Z ] && continue
    if [ \"$leader\" != 0 ] && [ \"$4\" = \"$leader\" ]; then
      kill -KILL \"$process\" 2>/dev/null && hit=1
      continue
    fi
    {
      while IFS= read -r line || [ -n \"$line\" ]; do
        case $line in
          *\"KLED_EXEC=$token\"*) kill -KILL \"$process\" && hit=1; break ;;
        esac
      done < \"$folder/environ\"
    } 2>/dev/null
  done
  [ -n \"$hit\" ] || [ \"$leader\" = 0 ] || exit 0
done
";

/// The whole command line that runs a command.
pub(super) fn run(command: &Command, checkout: &str, secrets: Option<&str>) -> Vec<String> {
    let mode = match command {
        Command { detached: true, .. } => "detached",
        Command { terminal: Some(_), .. } => "terminal",
        Command { stdin: StandardInput::Piped, .. } => "piped",
        _ => "empty",
    };
    let folder = match command.working_directory.as_deref() {
        None => checkout.to_owned(),
        Some(absolute) if absolute.starts_with('/') => absolute.to_owned(),
        Some(relative) => format!("{checkout}/{relative}"),
    };
    let before = ["sh", "-c", RUN, "kled", mode, &folder, secrets.unwrap_or_default()];
    before.into_iter().map(str::to_owned).chain(command.arguments.iter().cloned()).collect()
}

/// Secrets as shell commands. Within single quotes a shell reads nothing but the closing quote.
pub(super) fn exports(secrets: &[(&str, Secret)]) -> String {
    let quoted = |secret: &Secret| secret.expose().replace('\'', r"'\''");
    secrets.iter().map(|(name, secret)| format!("export {name}='{}'\n", quoted(secret))).collect()
}

/// What the script says first.
#[derive(Debug)]
pub(super) enum Greeting {
    /// It becomes the command now, as this process of the container.
    Begun(u32),
    /// There will be no command.
    Refused(Error),
}

impl Greeting {
    pub(super) fn read(line: &str) -> Option<Self> {
        let line = line.trim_end();
        if let Some(process) = line.strip_prefix('+') {
            return process.parse().ok().map(Self::Begun);
        }
        let (kind, message) = match line {
            "!folder" => (ErrorKind::InvalidInput, "the working directory does not exist"),
            "!command" => (ErrorKind::CommandNotFound, "the command does not exist in the workspace"),
            "!permission" => (ErrorKind::PermissionDenied, "the command cannot be executed"),
            _ => return None,
        };
        Some(Self::Refused(Error::new(kind, message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command as Process, Output, Stdio};

    /// Runs the script in this machine's `sh`.
    fn run_here(mode: &str, folder: &str, arguments: &[&str]) -> Output {
        let mut process = Process::new("sh");
        process.args(["-c", RUN, "kled", mode, folder, ""]).args(arguments).stdin(Stdio::null());
        process.output().unwrap()
    }

    fn said(output: &Output) -> String {
        String::from_utf8(output.stdout.clone()).unwrap()
    }

    #[test]
    fn the_script_becomes_the_command() {
        let output = run_here("empty", "/", &["sh", "-c", "echo $$; pwd; echo \"$1\"", "x", "a b*"]);
        let text = said(&output);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].strip_prefix('+'), Some(lines[1]));
        assert_eq!(&lines[2..], ["/", "a b*"]);
    }

    #[test]
    fn what_cannot_be_run_is_told_apart() {
        let kind =
            |folder: &str, command: &str| match Greeting::read(&said(&run_here("empty", folder, &[command])))
            {
                Some(Greeting::Refused(error)) => error.kind(),
                other => panic!("{other:?}"),
            };
        assert_eq!(kind("/nowhere", "true"), ErrorKind::InvalidInput);
        assert_eq!(kind("/", "no-such-command"), ErrorKind::CommandNotFound);
        assert_eq!(kind("/", "/no/such/command"), ErrorKind::CommandNotFound);
        assert_eq!(kind("/", "/etc/passwd"), ErrorKind::PermissionDenied);
        assert_eq!(kind("/", "/etc"), ErrorKind::PermissionDenied);
        // One of the shell's own.
        assert_eq!(kind("/", "shift"), ErrorKind::CommandNotFound);
    }

    #[test]
    fn secrets_survive_the_shell() {
        let value = "it's \"$HOME\" `id`\n second \\ line";
        let exports = exports(&[("TOKEN", Secret::new(value))]);
        let output =
            Process::new("sh").args(["-c", &format!("{exports}printf %s \"$TOKEN\"")]).output().unwrap();
        assert_eq!(said(&output), value);
    }

    #[test]
    fn the_session_and_what_left_it_are_ended() {
        // The session's leader ends at once; one process stays in the session, one leaves it.
        let token = "0f9ce1";
        let mut leader = Process::new("setsid");
        leader
            .args(["sh", "-c", "sleep 600 & setsid sleep 601 & echo $$ $!; wait"])
            .env(TOKEN_VARIABLE, token);
        let mut child = leader.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        let (leader, other) = line.trim().split_once(' ').unwrap();
        let ended =
            Process::new("sh").args(["-c", END, "kled", leader, token, "/nonexistent"]).status().unwrap();
        assert!(ended.success());
        child.wait().unwrap();
        let alive = |process: &str| {
            std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|state| !state.contains(") Z"))
        };
        assert!(!alive(leader) && !alive(other));
    }
}
