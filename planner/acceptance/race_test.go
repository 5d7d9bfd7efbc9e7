//go:build race

package acceptance

// buildFlags build the commands with the race detector if the tests have it. A race ends a command
// with an exit code that no test expects. Without debugging information, a link takes half as long.
var buildFlags = []string{"-race", "-ldflags=-w"}
