//go:build race

package acceptance

// raceFlag builds the commands as the tests are built: a race in one of them ends
// it with an exit code that no test expects.
var raceFlag = []string{"-race"}
