import Glibc
import SidelockClient
import SystemStrings

/// What a lock costs a program in Python: by the daemon's protocol, by the raw scheme, and by redis-py's lock, in turns.
struct PythonComparison {
  let interpreter: String
  let daemon: String
  let redis: String
  let seconds: Double

  func measure() throws(SidelockError) -> [Figures] {
    let measured = try run()
    let own = measured["sidelock"].flatMap(Self.perSecond)
    var figures: [Figures] = []
    for name in ["sidelock", "raw", "redis-py"] {
      guard let result = measured[name], case .array(let values)? = result["nanoseconds"] else { continue }
      var one = Figures(
        scenario: .python, clients: 1, measured: "cycle, \(name)",
        latencies: Latencies(values.compactMap { $0.intValue.map { UInt32(clamping: $0) } }),
        perSecond: Self.perSecond(result))
      if name != "sidelock", let own, let other = one.perSecond, own > 0 {
        let word = name == "raw" ? "raw" : "redis_py"
        one.add("of_\(word)", other / own, digits: 2, "a cycle with the daemon by one with \(name), in Python")
      }
      figures.append(one)
    }
    if measured["redis-py"] == nil {
      try? Descriptor.write(
        "python: \(interpreter) has no module redis, so its lock is not measured: \(interpreter) -m pip install redis\n",
        to: STDERR_FILENO)
    }
    return figures
  }

  private static func perSecond(_ result: JSONValue) -> Double? {
    guard case .double(let value)? = result["per_second"] else { return nil }
    return value
  }

  private func run() throws(SidelockError) -> JSONValue {
    let process = try HelperProcess(interpreter, [interpreter, "-c", Self.program, daemon, redis, "\(seconds)"])
    let output = try process.output()
    guard let measured = try? JSONValue(parsing: output), measured["sidelock"] != nil else {
      throw SidelockError(
        reason: .noDaemon, message: "\(interpreter) did not measure anything; give another one with --python")
    }
    return measured
  }

  /// Prints one JSON object: for each lock the times of its cycles and how many there were in a second.
  private static let program = #"""
    import json, os, socket, sys, time

    daemon, server, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    name = f"bench-{os.getpid()}-python"

    def connect(path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return connection

    def sidelock():
        connection = connect(daemon)
        lines = connection.makefile("rb")
        def call(number, method):
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": {"name": name}}
            connection.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(lines.readline())["result"]
        def cycle():
            call(1, "acquire")
            call(2, "release")
        return cycle

    def raw():
        connection = connect(server)
        lines = connection.makefile("rb")
        script = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0"
        def call(*words):
            parts = [b"*%d\r\n" % len(words)]
            for word in words:
                parts.append(b"$%d\r\n%s\r\n" % (len(word), word.encode()))
            connection.sendall(b"".join(parts))
            line = lines.readline()
            return lines.readline().strip().decode() if line.startswith(b"$") else line
        digest = call("SCRIPT", "LOAD", script)
        def cycle():
            token = os.urandom(16).hex()
            assert call("SET", name + "-raw", token, "NX", "PX", "30000") == b"+OK\r\n"
            assert call("EVALSHA", digest, "1", name + "-raw", token) == b":1\r\n"
        return cycle

    def redis_py():
        import redis
        client = redis.Redis(unix_socket_path=server)
        def cycle():
            lock = client.lock(name + "-redis-py", timeout=30)
            assert lock.acquire()
            lock.release()
        return cycle

    cycles, spent, times = {}, {}, {}
    for kind, make in (("sidelock", sidelock), ("raw", raw), ("redis-py", redis_py)):
        try:
            cycles[kind] = make()
        except ImportError:
            continue
        spent[kind], times[kind] = 0, []
    for turn in range(5):
        for kind, cycle in cycles.items():
            for _ in range(20):
                cycle()
            start = last = time.monotonic_ns()
            while last - start < seconds / 5 * 1e9:
                cycle()
                now = time.monotonic_ns()
                times[kind].append(now - last)
                last = now
            spent[kind] += last - start
    print(json.dumps({
        kind: {"nanoseconds": times[kind], "per_second": len(times[kind]) / spent[kind] * 1e9} for kind in cycles}))
    """#
}
