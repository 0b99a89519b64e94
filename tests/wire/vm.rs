//! A VM that the test plays: an agent on port 3030 that answers as it is told, and an nxagent on port 4100.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::stage::PATIENCE;

/// What the agent answers to a method.
#[derive(Clone, Copy)]
pub enum Reply {
    /// The method fails with this text.
    Refuse(&'static str),
    /// These bytes, whatever they are.
    Raw(&'static str),
    /// Nothing, as long as the caller waits.
    Silence,
}

/// A call of the agent.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub parameters: Vec<(String, String)>,
    at: Instant,
}

impl Call {
    /// The value of a parameter, which must have been sent once.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut values = self.parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} was sent twice");
        value
    }
}

struct Agent {
    state: watch::Sender<&'static str>,
    /// Knows `x_wait`.
    ours: watch::Sender<bool>,
    replies: Mutex<HashMap<&'static str, Reply>>,
    calls: watch::Sender<Vec<Call>>,
}

/// The VM.
pub struct FakeVm {
    agent: Arc<Agent>,
    address: IpAddr,
    accepted: mpsc::UnboundedReceiver<TcpStream>,
    rpc: JoinHandle<()>,
    nxagent: Option<JoinHandle<()>>,
}

impl FakeVm {
    /// Its agent is ours and its X session comes up at once.
    pub async fn start(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let agent = Arc::new(Agent {
            state: watch::Sender::new("listening"),
            ours: watch::Sender::new(true),
            replies: Mutex::default(),
            calls: watch::Sender::default(),
        });
        let listener = TcpListener::bind((address, 3030)).await.unwrap();
        let serving = agent.clone();
        let rpc = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        let mut vm = Self { agent, address, accepted: mpsc::unbounded_channel().1, rpc, nxagent: None };
        vm.open_nx().await;
        vm
    }

    /// The agent knows no extension of ours.
    pub fn classic(&self) {
        self.agent.ours.send_replace(false);
    }

    /// What the agent answers to a method from now on; `None`: what it should.
    pub fn reply(&self, method: &'static str, reply: Option<Reply>) {
        let mut replies = self.agent.replies.lock().unwrap();
        match reply {
            Some(reply) => replies.insert(method, reply),
            None => replies.remove(method),
        };
    }

    /// The state of the X session from now on.
    pub fn x(&self, state: &'static str) {
        self.agent.state.send_replace(state);
    }

    /// Waits until a method was called so often in all, and gives that call.
    pub async fn called(&self, method: &str, times: usize) -> Call {
        let mut calls = self.agent.calls.subscribe();
        let enough = |calls: &Vec<Call>| calls.iter().filter(|call| call.method == method).count() >= times;
        let calls = timeout(PATIENCE, calls.wait_for(enough)).await.expect("the agent was not called").unwrap();
        calls.iter().filter(|call| call.method == method).nth(times - 1).unwrap().clone()
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.agent.calls.borrow().iter().filter(|call| call.method == method).count()
    }

    /// The time from each call of a method to the next.
    pub fn pauses(&self, method: &str) -> Vec<Duration> {
        let calls = self.agent.calls.borrow();
        let times: Vec<Instant> = calls.iter().filter(|call| call.method == method).map(|call| call.at).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// The next connection to nxagent.
    pub async fn nx(&mut self) -> TcpStream {
        timeout(PATIENCE, self.accepted.recv()).await.expect("nobody connected to nxagent").unwrap()
    }

    /// The next connection to nxagent, which closes it when its peer does.
    pub async fn nx_follows(&mut self) {
        let mut nx = self.nx().await;
        tokio::spawn(async move {
            let mut space = [0; 4096];
            while matches!(nx.read(&mut space).await, Ok(read) if read > 0) {}
        });
    }

    /// nxagent does not listen any more.
    pub async fn close_nx(&mut self) {
        if let Some(nxagent) = self.nxagent.take() {
            nxagent.abort();
            let _ = nxagent.await;
        }
    }

    /// nxagent listens.
    pub async fn open_nx(&mut self) {
        let listener = TcpListener::bind((self.address, 4100)).await.unwrap();
        let (sender, accepted) = mpsc::unbounded_channel();
        self.accepted = accepted;
        self.nxagent = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = sender.send(stream);
            }
        }));
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.rpc.abort();
        if let Some(nxagent) = &self.nxagent {
            nxagent.abort();
        }
    }
}

impl Agent {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut head).await, Ok(read) if read > 0) {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.strip_prefix("GET /vma/").and_then(|rest| rest.split(' ').next()).unwrap();
        let (method, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').map(|(key, value)| (decoded(key), decoded(value))).unwrap());
        let call = Call { method: method.to_owned(), parameters: pairs.collect(), at: Instant::now() };
        self.calls.send_modify(|calls| calls.push(call.clone()));
        let reply = self.replies.lock().unwrap().get(method).copied();
        let answer = match (reply, method) {
            (Some(Reply::Refuse(text)), _) => ok(&format!(r#""","{text}""#)),
            (Some(Reply::Raw(bytes)), _) => bytes.to_owned(),
            (Some(Reply::Silence), _) => {
                // Until the caller has had enough.
                let _ = stream.read(&mut [0]).await;
                return;
            }
            (None, "ping") => ok("1"),
            (None, "x_start") => ok(r#""starting""#),
            (None, "x_state") => ok(&format!(r#""{}""#, *self.state.borrow())),
            (None, "x_wait") if *self.ours.borrow() => ok(&format!(r#""{}""#, self.changed(&call).await)),
            _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found".to_owned(),
        };
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    async fn changed(&self, call: &Call) -> &'static str {
        let seen = call.parameter("seen").unwrap().to_owned();
        let limit = Duration::from_secs_f64(call.parameter("limit").unwrap().parse().unwrap());
        let mut state = self.state.subscribe();
        let _ = timeout(limit, state.wait_for(|state| *state != seen)).await;
        *self.state.borrow()
    }
}

fn ok(json: &str) -> String {
    let length = json.len() + 2;
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json-simplerpc\r\nContent-Length: {length}\r\n\r\n{json}\r\n")
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
