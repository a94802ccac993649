// swift-tools-version: 6.2
import PackageDescription

/// Swift 6 language mode, and a warning fails the build. (`unsafeFlags` would say the same, but a root package that
/// uses them cannot be depended on.)
let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioEmbedded = Target.Dependency.product(name: "NIOEmbedded", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioTLS = Target.Dependency.product(name: "NIOTLS", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let nioConcurrencyHelpers = Target.Dependency.product(name: "NIOConcurrencyHelpers", package: "swift-nio")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

let package = Package(
  name: "sidelock",
  products: [
    .executable(name: "sidelockd", targets: ["sidelockd"]),
    .executable(name: "sidelock", targets: ["sidelock"]),
    .library(name: "SidelockClient", targets: ["SidelockClient"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
  ],
  targets: [
    // Pure: no I/O, clock, randomness or logging. Tests/run.sh fails when one of them imports more than it may.
    .target(name: "LockTypes", swiftSettings: strict),
    .target(
      name: "LockEngine",
      dependencies: [
        "LockTypes", "SystemStrings",
        .product(name: "DequeModule", package: "swift-collections"),
        .product(name: "HeapModule", package: "swift-collections"),
      ],
      swiftSettings: strict),
    .target(name: "ClientProtocol", dependencies: ["LockTypes"], swiftSettings: strict),
    .target(name: "AccessPolicy", dependencies: ["SystemStrings"], swiftSettings: strict),
    .target(name: "SystemStrings", swiftSettings: strict),
    .target(
      name: "RESP", dependencies: ["SystemStrings", .product(name: "DequeModule", package: "swift-collections")],
      swiftSettings: strict),
    .target(
      name: "RedisLeases",
      dependencies: [
        "LockEngine", "LockTypes", "RESP", .product(name: "DequeModule", package: "swift-collections"),
      ],
      resources: [.embedInCode("Scripts")],
      swiftSettings: strict),

    // I/O.
    .target(name: "CLinux"),
    .target(name: "CEventLoop"),
    .target(name: "ProcessSupport", dependencies: ["CLinux", "SystemStrings"], swiftSettings: strict),
    .systemLibrary(name: "CSystemd", pkgConfig: "libsystemd", providers: [.apt(["libsystemd-dev"])]),
    .target(
      name: "SystemdSupport",
      dependencies: [
        "CLinux", "CSystemd", "SystemStrings", logging, nioConcurrencyHelpers,
        .product(name: "DequeModule", package: "swift-collections"),
      ],
      swiftSettings: strict),
    // Nothing else speaks with the TLS library.
    .target(
      name: "RedisTLS", dependencies: ["ProcessSupport", "RESP", "SystemStrings", nioCore, nioSSL, nioTLS],
      swiftSettings: strict),
    .systemLibrary(name: "CLibYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
    .target(
      name: "DaemonSettings", dependencies: ["AccessPolicy", "LockEngine", "RESP", logging],
      swiftSettings: strict),
    .target(
      name: "SidelockSettings",
      dependencies: [
        "AccessPolicy", "CLibYAML", "DaemonSettings", "LockEngine", "LockTypes", "ProcessSupport", "RedisTLS", "RESP",
        "SystemStrings",
        argumentParser, logging,
      ],
      swiftSettings: strict),
    .target(
      name: "Sidecar",
      dependencies: [
        "AccessPolicy", "CEventLoop", "CLinux", "DaemonSettings", "LockEngine", "LockTypes", "ClientProtocol",
        "ProcessSupport", "RESP", "RedisLeases", "RedisTLS", "SystemStrings", "SystemdSupport", nioCore, nioPosix,
        logging,
        .product(name: "DequeModule", package: "swift-collections"),
      ],
      resources: [.embedInCode("Resources")],
      swiftSettings: strict),
    .target(
      name: "SidelockClient", dependencies: ["SystemStrings", nioCore, nioPosix, nioConcurrencyHelpers],
      swiftSettings: strict),

    // Thin mains.
    .executableTarget(
      name: "sidelockd",
      dependencies: [
        "CLinux", "DaemonSettings", "Sidecar", "SidelockSettings", "ProcessSupport", "SystemStrings", "SystemdSupport",
        argumentParser,
        logging, nioConcurrencyHelpers,
      ],
      swiftSettings: strict),
    .target(name: "CSupervise"),
    .target(name: "CLimitServer"),
    .executableTarget(
      name: "sidelock",
      dependencies: [
        "CLimitServer", "CLinux", "SidelockClient", "CSupervise", "ProcessSupport", "RESP", "SystemStrings",
        argumentParser, nioCore, nioHTTP1, nioPosix,
      ],
      resources: [.embedInCode("Dashboard/Resources")],
      swiftSettings: strict),

    .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: strict),
    .testTarget(name: "LockEngineTests", dependencies: ["LockEngine", "LockTypes"], swiftSettings: strict),
    .testTarget(name: "AccessPolicyTests", dependencies: ["AccessPolicy"], swiftSettings: strict),
    .testTarget(
      name: "ClientProtocolTests", dependencies: ["ClientProtocol", "LockTypes", "TestSupport"], swiftSettings: strict),
    .testTarget(
      name: "RESPTests", dependencies: ["RESP", "SystemStrings", "TestSupport"], swiftSettings: strict),
    .testTarget(
      name: "RedisTLSTests", dependencies: ["ProcessSupport", "RESP", "RedisTLS", nioSSL], swiftSettings: strict),
    .testTarget(
      name: "RedisLeasesTests", dependencies: ["LockEngine", "LockTypes", "RESP", "RedisLeases", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "ProtocolDocumentTests",
      dependencies: ["ClientProtocol", "LockEngine", "LockTypes", "RESP", "RedisLeases", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "SettingsTests",
      dependencies: [
        "AccessPolicy", "DaemonSettings", "LockEngine", "LockTypes", "ProcessSupport", "RESP", "Sidecar",
        "SidelockSettings",
        "SystemStrings",
        "SystemdSupport", "TestSupport", argumentParser, logging, nioCore, nioPosix,
      ],
      swiftSettings: strict),
    .testTarget(
      name: "SystemdSupportTests", dependencies: ["SystemdSupport", "TestSupport", logging, nioConcurrencyHelpers],
      swiftSettings: strict),
    .testTarget(
      name: "SidecarTests",
      dependencies: [
        "CEventLoop", "Sidecar", "ClientProtocol", "DaemonSettings", "LockEngine", "LockTypes", "RESP", "RedisLeases",
        "RedisTLS", "SystemdSupport", "TestSupport", nioCore, nioEmbedded, nioPosix, logging,
      ],
      swiftSettings: strict),
    // The simulator runs the real scripts in the interpreter that Redis has inside. Only tests need it: it is a part
    // of the test target, so that the daemon builds on a machine without Lua.
    .systemLibrary(
      name: "CLua51", path: "Tests/CLua51", pkgConfig: "lua5.1", providers: [.apt(["liblua5.1-0-dev"])]),
    .testTarget(
      name: "SimulatorTests",
      dependencies: ["CLua51", "LockEngine", "LockTypes", "RESP", "RedisLeases", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "SidelockClientTests",
      dependencies: ["SidelockClient", "SystemStrings", "TestSupport", nioCore, nioConcurrencyHelpers],
      swiftSettings: strict),
    .testTarget(
      name: "CommandTests",
      dependencies: [
        "LockEngine", "LockTypes", "sidelock", "SidelockClient", "SystemStrings", "TestSupport", argumentParser,
        nioHTTP1,
      ],
      swiftSettings: strict),
    .testTarget(name: "DaemonTests", dependencies: ["sidelockd"], swiftSettings: strict),
    // How much the pure targets cost, in instructions and allocations; Tests/run.sh budgets holds them to it.
    .target(name: "CAllocations", path: "Tests/CAllocations"),
    .executableTarget(
      name: "Budgets",
      dependencies: ["CAllocations", "ClientProtocol", "LockEngine", "LockTypes", "RESP", "RedisLeases"],
      path: "Tests/Budgets", exclude: ["budgets.tsv"], swiftSettings: strict),
  ]
)

// Tests/lib/fuzz.py builds this with the flags that its symbols need.
if Context.environment["SIDELOCK_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "Fuzz",
      dependencies: [
        "AccessPolicy", "ClientProtocol", "LockEngine", "LockTypes", "RESP", "RedisLeases", "Sidecar", "SidelockClient",
        "SidelockSettings", "SystemdSupport",
      ],
      path: "Tests/Fuzz", exclude: ["corpus", "found", "README.md"], swiftSettings: strict))
}

// Tests/lib/seeds.sh builds the simulator with optimization, and nothing beside it.
if Context.environment["SIDELOCK_SEEDS"] != nil {
  let simulator = [
    "CLua51", "LockEngine", "LockTypes", "RESP", "RedisLeases", "SimulatorTests", "SystemStrings", "TestSupport",
  ]
  package.targets.removeAll { !simulator.contains($0.name) }
  package.products = []
}
