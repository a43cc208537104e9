// The tokeniser of clap-mini, as unisep_clap.wordpiece has it.

export class WordPiece {
  constructor(vocabulary, nTokensMax = 64, nCharactersMax = 100) {
    this.ids = new Map(vocabulary.split(/\r?\n/).map((piece, id) => [piece, id]));
    this.nTokensMax = nTokensMax;
    this.nCharactersMax = nCharactersMax;
  }

  encode(phrase) {
    const ids = words(phrase).flatMap((word) => this.piecesOf([...word]));
    return [this.ids.get("[CLS]"), ...ids.slice(0, this.nTokensMax - 2), this.ids.get("[SEP]")];
  }

  // The longest known piece first, left to right; a word that no pieces cover is unknown as a whole.
  piecesOf(letters) {
    const unknown = [this.ids.get("[UNK]")];
    if (letters.length > this.nCharactersMax) return unknown;
    const ids = [];
    let start = 0;
    while (start < letters.length) {
      let end = letters.length;
      const piece = () => (start ? "##" : "") + letters.slice(start, end).join("");
      while (end > start && !this.ids.has(piece())) end -= 1;
      if (end === start) return unknown;
      ids.push(this.ids.get(piece()));
      start = end;
    }
    return ids;
  }
}

// Words and single punctuation marks, lower case, without accents or control characters.
function words(phrase) {
  const spaced = [...phrase.toLowerCase().normalize("NFD")].map((letter) => {
    if (/\p{Mn}/u.test(letter)) return "";
    if (/\p{C}/u.test(letter)) return "\t\n\r".includes(letter) ? " " : "";
    const isSymbol = /[\x21-\x7e]/.test(letter) && !/[a-z0-9]/i.test(letter);
    return isSymbol || /\p{P}/u.test(letter) || isIdeograph(letter.codePointAt(0)) ? ` ${letter} ` : letter;
  });
  return spaced.join("").split(/\s+/u).filter(Boolean);
}

function isIdeograph(code) {
  return (
    (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) || (code >= 0xf900 && code <= 0xfaff) ||
    code >= 0x20000
  );
}
