package display

import (
	"strings"
	"unicode/utf8"
)

// columnGap is the space between two columns of a table.
const columnGap = 2

// column is one of a table: of texts, which begin below each other, or of numbers,
// which end there.
type column struct {
	title  string
	number bool
}

func text(title string) column { return column{title: title} }

func number(title string) column { return column{title: title, number: true} }

// table lines up cells below their titles, at an indent. A row may have fewer cells
// than there are columns.
func (p *page) table(indent int, columns []column, rows [][]string) {
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	if strings.Join(titles, "") != "" {
		rows = append([][]string{titles}, rows...)
	}
	widths := make([]int, len(columns))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	gap := strings.Repeat(" ", columnGap)
	for _, row := range rows {
		line := strings.Repeat(" ", indent)
		for i, cell := range row {
			if i > 0 {
				line += gap
			}
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if columns[i].number {
				line += padding + cell
			} else {
				line += cell + padding
			}
		}
		p.line("%s", strings.TrimRight(line, " "))
	}
}
