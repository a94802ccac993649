import RESP

/// How somebody asks the daemon's Redis with redis-cli, without the daemon's password: its user may do no more than it needs.
struct RedisServerWords {
  /// The daemon's user there, as a shell takes it.
  let user: String
  /// Nil where the URL is not known.
  private let url: RedisURL?
  private let tls: String
  /// Why a cluster does not serve something, in the daemon's words: a node that they name is asked only where no other is known.
  var trouble = ""
  /// The primary that Sentinels have named to the daemon, as it tells it; nil: it is not known, and one of them is asked.
  var primary: String?

  /// - Parameters:
  ///   - url: the daemon's, as it tells it.
  ///   - settings: its other settings, by their names.
  init(url: String?, settings: @escaping (String) -> String?) {
    self.url = url.flatMap { try? RedisURL(parsing: $0) }
    let given = { (name: String) in settings(name).flatMap { $0.isEmpty ? nil : $0 } }
    let isKnown = self.url != nil && given("redis_credentials_command") == nil
    user = shellWord(self.url?.username ?? given("redis_user") ?? (isKnown ? "default" : "THE-DAEMONS-USER"))
    guard self.url?.usesTLS == true else {
      tls = ""
      return
    }
    let files = [("--cacert", "redis_tls_ca"), ("--cert", "redis_tls_cert"), ("--key", "redis_tls_key")]
    let words = files.compactMap { option, name in given(name).map { " \(option) \(shellWord($0))" } }
    tls = " --tls" + words.joined() + (given("redis_tls_verify") == "none" ? " --insecure" : "")
  }

  /// A command for it, as a line for a shell.
  func command(_ words: String) -> String {
    guard let url else { return "redis-cli -u THE-DAEMONS-URL \(words)" }
    let database = url.database == 0 ? "" : " -n \(url.database)"
    switch url.endpoint {
    case .tcp(let host, let port):
      return "redis-cli\(Self.place(host, port))\(database)\(tls) \(words)"
    case .unix(let path):
      return "redis-cli -s \(shellWord(path))\(database) \(words)"
    case .sentinels(let set):
      // The first one of the URL may be away.
      if let primary, case .tcp(let host, let port)? = (try? RedisURL(parsing: "redis://\(primary)"))?.endpoint {
        return "redis-cli\(Self.place(host, port))\(database)\(tls) \(words)"
      }
      let sentinel = set.addresses.first.map { Self.place($0.host, $0.port) } ?? ""
      let asked = "redis-cli\(sentinel)\(tls) SENTINEL GET-MASTER-ADDR-BY-NAME \(shellWord(set.master))"
      return "redis-cli $(\(asked) | sed '1s/^/-h /;2s/^/-p /')\(database)\(tls) \(words)"
    case .cluster(let seeds):
      let well = seeds.addresses.first { !trouble.contains("\($0): ") }
      guard let node = well ?? seeds.addresses.first else { return "redis-cli -c\(tls) \(words)" }
      // Each node has settings and users of its own.
      return "redis-cli\(tls) --cluster call \(shellWord("\(node.host):\(node.port)")) \(words)"
    }
  }

  private static func place(_ host: String, _ port: Int) -> String { " -h \(shellWord(host)) -p \(port)" }
}
