//! Compiling plugins, in a child process with limits on memory and time, which ends when nobody waits for it
//! any more. The machine code that it returns is run by this node. It can be trusted because the child runs
//! this very program, and nobody else can write to the pipe.

use super::contract;
use super::engine;
use super::load::LoadErrorKind;
use bytesize::ByteSize;
use rlimit::Resource;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// The subcommand with which this program starts itself as a compiler. It is not for users.
pub const COMPILE_COMMAND: &str = "compile-plugin";

/// The running program, even if its file has been replaced or deleted since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Limits of one compilation. A plugin with a JavaScript engine takes 400 MB and ten seconds of processor time.
const MAX_MEMORY_BYTES: u64 = 1 << 30;
const MAX_CPU_TIME: Duration = Duration::from_secs(60);
/// Maximum duration of one compilation in a child process. A client that waits for one must wait at least as
/// long.
pub const MAX_COMPILE_TIME: Duration = Duration::from_secs(180);

/// Address space on top of that memory: for the program, stacks, and what allocators reserve for each thread.
const RESERVED_ADDRESS_SPACE: u64 = 3 << 30;

/// Maximum number of threads that compile one plugin.
const MAX_THREADS: usize = 4;

/// Maximum length of an error message, in bytes.
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// Exit codes of the child: it took too long, nobody waits for it, or the system did not provide a thread.
const EXIT_TIMEOUT: u8 = 3;
const EXIT_CANCELLED: u8 = 4;
const EXIT_NO_THREAD: u8 = 5;

/// Where plugins are compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits: for plugin authors, and for tests, whose program cannot be started as
    /// a compiler.
    #[default]
    InProcess,
    /// In a child process for each plugin, with limits.
    ChildProcess,
}

/// A handle by which a compilation can be cancelled.
#[derive(Clone, Debug, Default)]
pub struct Compilation(Arc<Mutex<CompilationState>>);

#[derive(Debug, Default)]
enum CompilationState {
    #[default]
    NotStarted,
    Running(Child),
    Finished,
}

/// What the child process answers.
#[derive(Debug)]
enum CompilerResponse {
    Compiled(Vec<u8>),
    Failed(LoadErrorKind),
}

impl Compilation {
    /// Ends the child process at once. A compilation that has not started yet ends when it does.
    pub fn cancel(&self) {
        if let CompilationState::Running(mut child) =
            std::mem::replace(&mut *self.lock(), CompilationState::Finished)
        {
            child.kill().ok();
            child.wait().ok();
        }
    }

    fn start(&self, child: Child) {
        let mut state = self.lock();
        match *state {
            CompilationState::Finished => {
                drop(state);
                Self(Arc::new(Mutex::new(CompilationState::Running(child)))).cancel();
            }
            _ => *state = CompilationState::Running(child),
        }
    }

    /// Waits for the child process to exit; `None` if the compilation was cancelled.
    fn finish(&self) -> Option<io::Result<ExitStatus>> {
        // The child has closed its output, so it is about to exit.
        match std::mem::replace(&mut *self.lock(), CompilationState::Finished) {
            CompilationState::Running(mut child) => Some(child.wait()),
            CompilationState::NotStarted | CompilationState::Finished => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, CompilationState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compiler {
    /// Compiles a file that has passed [`check_file`](contract::check_file) to machine code for `engine`.
    /// Blocks.
    pub(super) fn compile(
        self,
        engine: &wasmtime::Engine,
        counts_instructions: bool,
        file: &[u8],
        compilation: &Compilation,
    ) -> Result<Vec<u8>, LoadErrorKind> {
        match self {
            Self::InProcess => compile_here(engine, file),
            Self::ChildProcess => compile_in_child(counts_instructions, file, compilation),
        }
    }
}

fn compile_here(engine: &wasmtime::Engine, file: &[u8]) -> Result<Vec<u8>, LoadErrorKind> {
    let component = contract::component(file)?;
    engine.precompile_component(&component).map_err(engine::compilation_failed)
}

fn compile_in_child(
    counts_instructions: bool,
    file: &[u8],
    compilation: &Compilation,
) -> Result<Vec<u8>, LoadErrorKind> {
    let mut command = Command::new(THIS_PROGRAM);
    // The child receives nothing of this node but its input; in particular no keys from the environment.
    command
        .arg(COMPILE_COMMAND)
        .env_clear()
        .env("RAYON_NUM_THREADS", compiler_threads().to_string())
        .current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(LoadErrorKind::CompilerUnavailable)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut input, mut output) = stdin.zip(stdout).expect("both are pipes");
    compilation.start(child);
    // Writing fails if the child has exited already. Its exit status explains that better than the write error.
    write_request(&mut input, counts_instructions, file).ok();
    let mut response = vec![];
    let read = output.read_to_end(&mut response);
    // Not earlier: the child exits as soon as its input is closed.
    drop(input);
    let status =
        compilation.finish().ok_or(LoadErrorKind::Cancelled)?.map_err(LoadErrorKind::CompilerUnavailable)?;
    read.map_err(LoadErrorKind::CompilerUnavailable)?;
    match CompilerResponse::parse(response) {
        Some(CompilerResponse::Compiled(code)) if status.success() => Ok(code),
        Some(CompilerResponse::Failed(error)) if status.success() => Err(error),
        _ => Err(explain_exit(status)),
    }
}

fn compiler_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// Why the child exited without a response.
fn explain_exit(status: ExitStatus) -> LoadErrorKind {
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    let cpu_seconds = MAX_CPU_TIME.as_secs();
    let reason = match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(EXIT_TIMEOUT) => {
            format!("it takes longer than {MAX_COMPILE_TIME:?}")
        }
        (Some(code), _) if code == i32::from(EXIT_CANCELLED) => return LoadErrorKind::Cancelled,
        (Some(code), _) if code == i32::from(EXIT_NO_THREAD) => {
            let error = io::Error::new(ErrorKind::WouldBlock, "the system provides no thread for it");
            return LoadErrorKind::CompilerUnavailable(error);
        }
        (_, Some(SIGXCPU | SIGKILL)) => format!("it takes more than {cpu_seconds} s of processor time"),
        // Rust aborts when an allocation fails.
        (_, Some(SIGABRT)) => format!("it takes more than {} of memory", ByteSize(MAX_MEMORY_BYTES)),
        _ => format!("the compiler process exited without a response ({status})"),
    };
    LoadErrorKind::CompilationFailed(reason)
}

fn write_request(to: &mut impl Write, counts_instructions: bool, file: &[u8]) -> io::Result<()> {
    to.write_all(&[u8::from(counts_instructions)])?;
    to.write_all(&(file.len() as u64).to_le_bytes())?;
    to.write_all(file)?;
    to.flush()
}

/// Does not allocate by the announced length, only by what is actually read.
fn read_request(from: &mut impl Read) -> io::Result<(bool, Vec<u8>)> {
    let (mut counts_instructions, mut length) = ([0], [0; 8]);
    from.read_exact(&mut counts_instructions)?;
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut file = vec![];
    if from.take(length).read_to_end(&mut file)? as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((counts_instructions[0] != 0, file))
}

impl CompilerResponse {
    /// The kind and content of a response, as the child writes it.
    fn encode(compiled: Result<Vec<u8>, LoadErrorKind>) -> (u8, Vec<u8>) {
        let text = |text: String| text.into_bytes().into_iter().take(MAX_ERROR_BYTES).collect();
        match compiled {
            Ok(code) => (b'c', code),
            Err(LoadErrorKind::ContractMismatch(reason)) => (b's', text(reason)),
            Err(LoadErrorKind::CompilationFailed(reason)) => (b'u', text(reason)),
            Err(error) => (b'u', text(error.to_string())),
        }
    }

    fn parse(mut response: Vec<u8>) -> Option<Self> {
        let kind = *response.first()?;
        response.remove(0);
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_ERROR_BYTES)]).into_owned();
        match kind {
            b'c' => Some(Self::Compiled(response)),
            b's' => Some(Self::Failed(LoadErrorKind::ContractMismatch(text(&response)))),
            b'u' => Some(Self::Failed(LoadErrorKind::CompilationFailed(text(&response)))),
            _ => None,
        }
    }
}

/// The whole life of the process that [`Compiler::ChildProcess`] starts: compiles the file on standard input,
/// writes the result to standard output, and exits.
pub fn compile_for_parent() -> ExitCode {
    match limit_resources().and_then(|()| serve_request()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::WouldBlock => EXIT_NO_THREAD.into(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn limit_resources() -> io::Result<()> {
    let limit = |resource: Resource, most: u64| {
        // The limit that this process inherited may be lower already.
        let (_, hard) = resource.get()?;
        resource.set(most.min(hard), most.min(hard))
    };
    limit(Resource::DATA, MAX_MEMORY_BYTES)?;
    limit(Resource::AS, MAX_MEMORY_BYTES + RESERVED_ADDRESS_SPACE)?;
    limit(Resource::CPU, MAX_CPU_TIME.as_secs())?;
    limit(Resource::FSIZE, 0)?;
    limit(Resource::CORE, 0)
}

fn serve_request() -> io::Result<()> {
    let mut input = io::stdin();
    let (counts_instructions, file) = read_request(&mut input)?;
    // The pipe is closed when the parent no longer waits, for whatever reason.
    let watch_parent = move || {
        io::copy(&mut input, &mut io::sink()).ok();
        std::process::exit(EXIT_CANCELLED.into());
    };
    Builder::new().name("parent-watch".into()).spawn(watch_parent)?;
    let watch_time = || {
        std::thread::sleep(MAX_COMPILE_TIME);
        std::process::exit(EXIT_TIMEOUT.into());
    };
    Builder::new().name("timeout".into()).spawn(watch_time)?;
    let compiled = match engine::compiler_runtime(counts_instructions) {
        Ok(engine) => compile_here(&engine, &file),
        Err(error) => Err(LoadErrorKind::CompilationFailed(error.to_string())),
    };
    let (kind, content) = CompilerResponse::encode(compiled);
    let mut output = io::stdout().lock();
    output.write_all(&[kind])?;
    output.write_all(&content)?;
    output.flush()
}
