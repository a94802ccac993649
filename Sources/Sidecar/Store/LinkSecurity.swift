import Dispatch
import NIOCore
import RESP
import RedisTLS

/// What connections by TLS need, from files that are read anew for each: whoever replaces them need not tell the daemon.
///
/// Reading may block for ever, so it is done on another thread: one reading at a time. Another one begins when other files
/// are named meanwhile, and when one hangs: the files may have been replaced by others.
final class LinkSecurity {
  private let loop: any EventLoop
  /// As they are in force now.
  private let options: () -> RedisTLSOptions
  /// Reads the files that some options name.
  private let begin: (RedisTLSOptions) -> EventLoopFuture<TLSClient>
  private var reading: (options: RedisTLSOptions, client: EventLoopFuture<TLSClient>, began: NIODeadline)?
  /// Readings that hang, and are waited for no more. Each holds a thread.
  private var hangingCount = 0
  /// Why no connection can be made by TLS; nil where the last reading was good.
  private(set) var failure: String?
  /// What the last connection was made with.
  private(set) var client: TLSClient?

  init(
    loop: any EventLoop, options: @escaping () -> RedisTLSOptions,
    begin: @escaping (RedisTLSOptions) -> EventLoopFuture<TLSClient>
  ) {
    self.loop = loop
    self.options = options
    self.begin = begin
  }

  /// - Parameter host: of the URL.
  convenience init(loop: any EventLoop, host: String, options: @escaping () -> RedisTLSOptions) {
    self.init(loop: loop, options: options) { options in
      let promise = loop.makePromise(of: TLSClient.self)
      DispatchQueue.global().async {
        promise.completeWith(Result { try TLSClient(TLSMaterial(options), host: host) })
      }
      return promise.futureResult
    }
  }

  /// Whether anything of the server's certificate was checked when the last connection was made.
  var verifies: Bool { client?.verifies ?? true }

  /// Reads the files. The completion is called once; nil: ``failure`` says why they cannot be used.
  func prepare(timeoutMilliseconds: Int64, _ completion: @escaping (TLSClient?) -> Void) {
    var completion: ((TLSClient?) -> Void)? = completion
    let finish = { (client: TLSClient?, failure: String?) in
      guard let done = completion.take() else { return }
      (self.client, self.failure) = (client, failure)
      done(client)
    }
    let reading = read()
    let timeout = loop.assumeIsolated().scheduleTask(in: .milliseconds(timeoutMilliseconds)) {
      self.giveUp(timeoutMilliseconds: timeoutMilliseconds)
      finish(nil, "the files for TLS could not be read within \(timeoutMilliseconds) ms")
    }
    reading.assumeIsolated().whenComplete { result in
      timeout.cancel()
      switch result {
      case .success(let client): finish(client, nil)
      case .failure(let error): finish(nil, "\(error)")
      }
    }
  }

  private func read() -> EventLoopFuture<TLSClient> {
    let options = options()
    if let reading, reading.options == options { return reading.client }
    let client = begin(options)
    reading = (options, client, loop.now)
    client.assumeIsolated().whenComplete { _ in
      if self.reading?.client === client { self.reading = nil }
    }
    return client
  }

  /// Lets the next connection begin another reading, if this one hangs. Each is waited for twice as long as the one before,
  /// so that few threads are held.
  private func giveUp(timeoutMilliseconds: Int64) {
    let patience = TimeAmount.milliseconds(timeoutMilliseconds << Int64(min(hangingCount, 20)))
    guard let reading, loop.now - reading.began >= patience else { return }
    self.reading = nil
    hangingCount += 1
    reading.client.assumeIsolated().whenComplete { _ in self.hangingCount -= 1 }
  }
}
