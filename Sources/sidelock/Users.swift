import Glibc
import SidelockClient

/// The accounts of this host.
enum Users {
  private static let bytesMax = 1 << 20

  /// The number of a user, who may be given by number, too; nil when there is none of that name.
  static func number(of user: String) -> Int64? {
    if let number = UInt32(user) { return Int64(number) }
    return lookUp { entry, buffer, count, found in
      getpwnam_r(user, entry, buffer, count, found)
    } body: {
      Int64($0.pw_uid)
    }
  }

  /// The name of a user; nil when there is none.
  static func name(of number: Int64) -> String? {
    guard let uid = uid_t(exactly: number) else { return nil }
    return lookUp { entry, buffer, count, found in
      getpwuid_r(uid, entry, buffer, count, found)
    } body: {
      String(cString: $0.pw_name)
    }
  }

  private static func lookUp<R>(
    _ ask: (
      UnsafeMutablePointer<passwd>, UnsafeMutablePointer<CChar>, Int,
      UnsafeMutablePointer<UnsafeMutablePointer<passwd>?>
    ) -> CInt, body: (passwd) -> R
  ) -> R? {
    var count = 1024
    while count <= bytesMax {
      var buffer = [CChar](repeating: 0, count: count)
      var entry = passwd()
      var found: UnsafeMutablePointer<passwd>?
      let result: (CInt, R?) = buffer.withUnsafeMutableBufferPointer { space in
        guard let base = space.baseAddress else { return (EINVAL, nil) }
        let status = ask(&entry, base, count, &found)
        return (status, found.map { body($0.pointee) })
      }
      guard result.0 == ERANGE else { return result.1 }
      count *= 4
    }
    return nil
  }
}

/// Names of users that were looked up once: many processes are of one user, and each look may ask a directory service.
struct KnownUsers {
  private var names: [Int64: String?] = [:]

  /// A client, holder or waiter with the name of its user behind the number, where that is known.
  mutating func named(_ one: JSONValue) -> JSONValue {
    guard let uid = one["uid"]?.intValue else { return one }
    let name = names[uid] ?? Users.name(of: uid)
    names[uid] = .some(name)
    guard let name else { return one }
    var object = JSONObject()
    for member in one.objectValue?.members ?? [] {
      object.append(member.key, member.value)
      if member.key == "uid" { object.append("user", .string(name)) }
    }
    return .object(object)
  }

  /// A lock with the names of the users who hold it or wait for it.
  mutating func named(inLock lock: JSONValue) -> JSONValue {
    var object = JSONObject()
    for member in lock.objectValue?.members ?? [] {
      switch (member.key, member.value) {
      case ("holders", .array(let people)), ("waiters", .array(let people)):
        object.append(member.key, .array(people.map { named($0) }))
      case _: object.append(member.key, member.value)
      }
    }
    return .object(object)
  }
}
