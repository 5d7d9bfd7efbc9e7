//go:build race

package acceptance

// raceFlag builds the commands with the race detector if the tests have it. A race ends a command
// with an exit code that no test expects.
var raceFlag = []string{"-race"}
