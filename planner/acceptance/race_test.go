//go:build race

package acceptance

// buildFlags build the commands with the race detector if the tests have it. A race ends a command
// with an exit code that no test expects. They are RACEFLAGS of the Makefile, so that what was built
// for the tests is used.
var buildFlags = []string{
	"-race", "-ldflags=-w", "-gcflags=all=-d=checkptr=0", "-gcflags=regexp...=-race=false", "-gcflags=path=-race=false",
}
