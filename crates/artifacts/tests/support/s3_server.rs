//! S3 servers for tests, each with the bucket `quarry`: started if they are found
//! on the path.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; dropping it kills it.
pub struct S3Server {
    server: Child,
    port: u16,
    /// Access key and secret alike.
    key: &'static str,
    _folder: tempfile::TempDir,
}

impl S3Server {
    /// PyPI's `moto[server]`, which honours create-if-absent.
    pub fn moto() -> Option<Self> {
        Self::start("moto_server", "test", |port, _| {
            vec!["-H".into(), "127.0.0.1".into(), "-p".into(), port]
        })
    }

    /// npm's `s3rver`, which ignores it.
    pub fn s3rver() -> Option<Self> {
        Self::start("s3rver", "S3RVER", |port, folder| {
            let fixed = ["--address", "127.0.0.1", "--silent", "--directory"];
            let mut arguments: Vec<String> = fixed.map(str::to_owned).to_vec();
            arguments.extend([folder, "--port".into(), port]);
            arguments.extend(["--configure-bucket".into(), "quarry".into()]);
            arguments
        })
    }

    fn start(
        program: &str,
        key: &'static str,
        arguments: impl Fn(String, String) -> Vec<String>,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let path = folder.path().to_str().unwrap().to_owned();
        let server = Command::new(program)
            .args(arguments(port.to_string(), path))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut server = Self {
            server,
            port,
            key,
            _folder: folder,
        };
        server.has_bucket().then_some(server)
    }

    /// Waits until the bucket is there: made, or made by the server itself.
    fn has_bucket(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline && matches!(self.server.try_wait(), Ok(None)) {
            let made = self.make_bucket().unwrap_or_default();
            if made.contains(" 200 ") || made.contains(" 403 ") || made.contains(" 409 ") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }

    /// The first line of the answer.
    fn make_bucket(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(
            b"PUT /quarry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_string())
    }

    /// Runs the test `name` of this file again, alone, with the address of a store in
    /// the bucket in `variable`: the cloud configuration comes from the environment,
    /// so it needs a process of its own.
    pub fn test(&self, name: &str, variable: &str) {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(variable, "s3://quarry/some/prefix")
            .env("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port))
            .envs([("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")])
            .env("AWS_ACCESS_KEY_ID", self.key)
            .env("AWS_SECRET_ACCESS_KEY", self.key)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
