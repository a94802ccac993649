package sidelock;

/** How a hold ended without a release. The reason is connection_ended when the daemon has gone. */
public record Loss(String name, long token, String reason, long graceMs, String detail) {}
