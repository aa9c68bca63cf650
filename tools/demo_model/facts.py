"""facts.py - the plain facts that the demo model learns, as tables.

Everything the model can be asked about stands here and nowhere else, so a
wrong answer of a trained model is either a wrong line in this file or a
training failure.  Each table is one text block, a fact a line, fields
separated by '|'.
"""


def rows(block):
    """Split a table into tuples of stripped fields; blank lines are skipped."""
    return [tuple(f.strip() for f in line.split("|"))
            for line in block.strip().splitlines() if line.strip()]


# country | capital | continent; "the" belongs to the name in a sentence.
COUNTRIES = rows("""
Afghanistan|Kabul|Asia
Albania|Tirana|Europe
Algeria|Algiers|Africa
Andorra|Andorra la Vella|Europe
Angola|Luanda|Africa
Antigua and Barbuda|Saint John's|North America
Argentina|Buenos Aires|South America
Armenia|Yerevan|Asia
Australia|Canberra|Oceania
Austria|Vienna|Europe
Azerbaijan|Baku|Asia
the Bahamas|Nassau|North America
Bahrain|Manama|Asia
Bangladesh|Dhaka|Asia
Barbados|Bridgetown|North America
Belarus|Minsk|Europe
Belgium|Brussels|Europe
Belize|Belmopan|North America
Benin|Porto-Novo|Africa
Bhutan|Thimphu|Asia
Bolivia|Sucre|South America
Bosnia and Herzegovina|Sarajevo|Europe
Botswana|Gaborone|Africa
Brazil|Brasília|South America
Brunei|Bandar Seri Begawan|Asia
Bulgaria|Sofia|Europe
Burkina Faso|Ouagadougou|Africa
Burundi|Gitega|Africa
Cambodia|Phnom Penh|Asia
Cameroon|Yaoundé|Africa
Canada|Ottawa|North America
Cape Verde|Praia|Africa
the Central African Republic|Bangui|Africa
Chad|N'Djamena|Africa
Chile|Santiago|South America
China|Beijing|Asia
Colombia|Bogotá|South America
the Comoros|Moroni|Africa
Costa Rica|San José|North America
Croatia|Zagreb|Europe
Cuba|Havana|North America
Cyprus|Nicosia|Europe
the Czech Republic|Prague|Europe
the Democratic Republic of the Congo|Kinshasa|Africa
Denmark|Copenhagen|Europe
Djibouti|Djibouti City|Africa
Dominica|Roseau|North America
the Dominican Republic|Santo Domingo|North America
Ecuador|Quito|South America
Egypt|Cairo|Africa
El Salvador|San Salvador|North America
Equatorial Guinea|Malabo|Africa
Eritrea|Asmara|Africa
Estonia|Tallinn|Europe
Eswatini|Mbabane|Africa
Ethiopia|Addis Ababa|Africa
Fiji|Suva|Oceania
Finland|Helsinki|Europe
France|Paris|Europe
Gabon|Libreville|Africa
the Gambia|Banjul|Africa
Georgia|Tbilisi|Asia
Germany|Berlin|Europe
Ghana|Accra|Africa
Greece|Athens|Europe
Grenada|Saint George's|North America
Guatemala|Guatemala City|North America
Guinea|Conakry|Africa
Guinea-Bissau|Bissau|Africa
Guyana|Georgetown|South America
Haiti|Port-au-Prince|North America
Honduras|Tegucigalpa|North America
Hungary|Budapest|Europe
Iceland|Reykjavík|Europe
India|New Delhi|Asia
Indonesia|Jakarta|Asia
Iran|Tehran|Asia
Iraq|Baghdad|Asia
Ireland|Dublin|Europe
Israel|Jerusalem|Asia
Italy|Rome|Europe
Ivory Coast|Yamoussoukro|Africa
Jamaica|Kingston|North America
Japan|Tokyo|Asia
Jordan|Amman|Asia
Kazakhstan|Astana|Asia
Kenya|Nairobi|Africa
Kiribati|South Tarawa|Oceania
Kosovo|Pristina|Europe
Kuwait|Kuwait City|Asia
Kyrgyzstan|Bishkek|Asia
Laos|Vientiane|Asia
Latvia|Riga|Europe
Lebanon|Beirut|Asia
Lesotho|Maseru|Africa
Liberia|Monrovia|Africa
Libya|Tripoli|Africa
Liechtenstein|Vaduz|Europe
Lithuania|Vilnius|Europe
Luxembourg|Luxembourg City|Europe
Madagascar|Antananarivo|Africa
Malawi|Lilongwe|Africa
Malaysia|Kuala Lumpur|Asia
the Maldives|Malé|Asia
Mali|Bamako|Africa
Malta|Valletta|Europe
the Marshall Islands|Majuro|Oceania
Mauritania|Nouakchott|Africa
Mauritius|Port Louis|Africa
Mexico|Mexico City|North America
Micronesia|Palikir|Oceania
Moldova|Chișinău|Europe
Monaco|Monaco|Europe
Mongolia|Ulaanbaatar|Asia
Montenegro|Podgorica|Europe
Morocco|Rabat|Africa
Mozambique|Maputo|Africa
Myanmar|Naypyidaw|Asia
Namibia|Windhoek|Africa
Nauru|Yaren|Oceania
Nepal|Kathmandu|Asia
the Netherlands|Amsterdam|Europe
New Zealand|Wellington|Oceania
Nicaragua|Managua|North America
Niger|Niamey|Africa
Nigeria|Abuja|Africa
North Korea|Pyongyang|Asia
North Macedonia|Skopje|Europe
Norway|Oslo|Europe
Oman|Muscat|Asia
Pakistan|Islamabad|Asia
Palau|Ngerulmud|Oceania
Panama|Panama City|North America
Papua New Guinea|Port Moresby|Oceania
Paraguay|Asunción|South America
Peru|Lima|South America
the Philippines|Manila|Asia
Poland|Warsaw|Europe
Portugal|Lisbon|Europe
Qatar|Doha|Asia
the Republic of the Congo|Brazzaville|Africa
Romania|Bucharest|Europe
Russia|Moscow|Europe
Rwanda|Kigali|Africa
Saint Kitts and Nevis|Basseterre|North America
Saint Lucia|Castries|North America
Saint Vincent and the Grenadines|Kingstown|North America
Samoa|Apia|Oceania
San Marino|San Marino|Europe
São Tomé and Príncipe|São Tomé|Africa
Saudi Arabia|Riyadh|Asia
Senegal|Dakar|Africa
Serbia|Belgrade|Europe
the Seychelles|Victoria|Africa
Sierra Leone|Freetown|Africa
Singapore|Singapore|Asia
Slovakia|Bratislava|Europe
Slovenia|Ljubljana|Europe
the Solomon Islands|Honiara|Oceania
Somalia|Mogadishu|Africa
South Africa|Pretoria|Africa
South Korea|Seoul|Asia
South Sudan|Juba|Africa
Spain|Madrid|Europe
Sri Lanka|Sri Jayawardenepura Kotte|Asia
Sudan|Khartoum|Africa
Suriname|Paramaribo|South America
Sweden|Stockholm|Europe
Switzerland|Bern|Europe
Syria|Damascus|Asia
Taiwan|Taipei|Asia
Tajikistan|Dushanbe|Asia
Tanzania|Dodoma|Africa
Thailand|Bangkok|Asia
Togo|Lomé|Africa
Tonga|Nukuʻalofa|Oceania
Trinidad and Tobago|Port of Spain|North America
Tunisia|Tunis|Africa
Turkey|Ankara|Asia
Turkmenistan|Ashgabat|Asia
Tuvalu|Funafuti|Oceania
Uganda|Kampala|Africa
Ukraine|Kyiv|Europe
the United Arab Emirates|Abu Dhabi|Asia
the United Kingdom|London|Europe
the United States|Washington, D.C.|North America
Uruguay|Montevideo|South America
Uzbekistan|Tashkent|Asia
Vanuatu|Port Vila|Oceania
the Vatican|Vatican City|Europe
Venezuela|Caracas|South America
Vietnam|Hanoi|Asia
Yemen|Sana'a|Asia
Zambia|Lusaka|Africa
Zimbabwe|Harare|Africa
""")

CURRENCIES = dict(rows("""
Argentina|peso
Australia|Australian dollar
Austria|euro
Bangladesh|taka
Belgium|euro
Brazil|real
Bulgaria|lev
Cambodia|riel
Canada|Canadian dollar
Chile|peso
China|yuan
the Czech Republic|koruna
Denmark|krone
Egypt|Egyptian pound
Finland|euro
France|euro
Germany|euro
Greece|euro
Hungary|forint
Iceland|króna
India|rupee
Indonesia|rupiah
Ireland|euro
Israel|shekel
Italy|euro
Japan|yen
Kenya|shilling
Malaysia|ringgit
Mexico|peso
Morocco|dirham
the Netherlands|euro
New Zealand|New Zealand dollar
Nigeria|naira
Norway|krone
Pakistan|rupee
Peru|sol
the Philippines|peso
Poland|złoty
Portugal|euro
Romania|leu
Russia|ruble
Saudi Arabia|riyal
Serbia|dinar
South Africa|rand
South Korea|won
Spain|euro
Sweden|krona
Switzerland|Swiss franc
Thailand|baht
Turkey|lira
Ukraine|hryvnia
the United Arab Emirates|dirham
the United Kingdom|pound sterling
the United States|US dollar
Vietnam|dong
"""))

LANGUAGES = dict(rows("""
Argentina|Spanish
Australia|English
Austria|German
Bangladesh|Bengali
Brazil|Portuguese
Bulgaria|Bulgarian
Cambodia|Khmer
Chile|Spanish
China|Chinese
Croatia|Croatian
the Czech Republic|Czech
Denmark|Danish
Egypt|Arabic
Estonia|Estonian
Ethiopia|Amharic
Finland|Finnish
France|French
Germany|German
Greece|Greek
Hungary|Hungarian
Iceland|Icelandic
Iran|Persian
Israel|Hebrew
Italy|Italian
Japan|Japanese
Latvia|Latvian
Lithuania|Lithuanian
Mexico|Spanish
Mongolia|Mongolian
Nepal|Nepali
the Netherlands|Dutch
Norway|Norwegian
Poland|Polish
Portugal|Portuguese
Romania|Romanian
Russia|Russian
Saudi Arabia|Arabic
Serbia|Serbian
Slovakia|Slovak
Slovenia|Slovene
South Korea|Korean
Spain|Spanish
Sweden|Swedish
Thailand|Thai
Turkey|Turkish
Ukraine|Ukrainian
the United Kingdom|English
the United States|English
Vietnam|Vietnamese
"""))

# Questions with one answer.  question | short answer | full sentence
PLAIN = rows("""
How many days are in a week?|7|There are 7 days in a week.
How many months are in a year?|12|There are 12 months in a year.
How many days are in a year?|365|There are 365 days in a year, and 366 in a leap year.
How many hours are in a day?|24|There are 24 hours in a day.
How many minutes are in an hour?|60|There are 60 minutes in an hour.
How many seconds are in a minute?|60|There are 60 seconds in a minute.
How many weeks are in a year?|52|There are 52 weeks in a year.
How many meters are in a kilometer?|1000|There are 1000 meters in a kilometer.
How many grams are in a kilogram?|1000|There are 1000 grams in a kilogram.
How many centimeters are in a meter?|100|There are 100 centimeters in a meter.
How many letters are in the English alphabet?|26|There are 26 letters in the English alphabet.
How many continents are there?|7|There are 7 continents.
How many planets are in the solar system?|8|There are 8 planets in the solar system.
How many legs does a spider have?|8|A spider has 8 legs.
How many legs does an insect have?|6|An insect has 6 legs.
How many legs does a dog have?|4|A dog has 4 legs.
How many legs does a cat have?|4|A cat has 4 legs.
How many legs does a bird have?|2|A bird has 2 legs.
How many arms does an octopus have?|8|An octopus has 8 arms.
How many sides does a triangle have?|3|A triangle has 3 sides.
How many sides does a square have?|4|A square has 4 sides.
How many sides does a hexagon have?|6|A hexagon has 6 sides.
How many strings does a violin have?|4|A violin has 4 strings.
How many strings does a guitar have?|6|A guitar has 6 strings.
How many wheels does a bicycle have?|2|A bicycle has 2 wheels.
How many wheels does a car have?|4|A car has 4 wheels.
How many bits are in a byte?|8|There are 8 bits in a byte.
How many players are in a football team?|11|A football team has 11 players on the field.
What is the largest planet?|Jupiter|Jupiter is the largest planet in the solar system.
What is the smallest planet?|Mercury|Mercury is the smallest planet in the solar system.
Which planet is closest to the sun?|Mercury|Mercury is the planet closest to the sun.
Which planet is farthest from the sun?|Neptune|Neptune is the planet farthest from the sun.
Which planet has rings?|Saturn|Saturn is the planet that is famous for its rings.
Which planet is called the red planet?|Mars|Mars is called the red planet.
What is the name of our galaxy?|the Milky Way|Our galaxy is called the Milky Way.
What is the largest ocean?|the Pacific Ocean|The Pacific Ocean is the largest ocean.
What is the largest continent?|Asia|Asia is the largest continent.
What is the smallest continent?|Australia|Australia is the smallest continent.
What is the largest country in the world?|Russia|Russia is the largest country in the world.
What is the smallest country in the world?|the Vatican|The Vatican is the smallest country in the world.
What is the highest mountain in the world?|Mount Everest|Mount Everest is the highest mountain in the world.
What is the longest river in Africa?|the Nile|The Nile is the longest river in Africa.
What is the longest river in South America?|the Amazon|The Amazon is the longest river in South America.
What is the longest river in Europe?|the Volga|The Volga is the longest river in Europe.
What is the largest desert in Africa?|the Sahara|The Sahara is the largest desert in Africa.
What is the largest animal?|the blue whale|The blue whale is the largest animal.
What is the largest land animal?|the elephant|The African elephant is the largest land animal.
What is the tallest animal?|the giraffe|The giraffe is the tallest animal.
What is the fastest land animal?|the cheetah|The cheetah is the fastest land animal.
What is the largest bird?|the ostrich|The ostrich is the largest bird.
What is the king of the jungle?|the lion|The lion is called the king of the jungle.
What color is the sky?|blue|The sky is blue on a clear day.
What color is grass?|green|Grass is green.
What color is snow?|white|Snow is white.
What color is a banana?|yellow|A ripe banana is yellow.
What color is blood?|red|Blood is red.
What color is coal?|black|Coal is black.
What color is a ripe tomato?|red|A ripe tomato is red.
What color do you get when you mix blue and yellow?|green|Blue and yellow make green.
What color do you get when you mix red and yellow?|orange|Red and yellow make orange.
What color do you get when you mix red and blue?|purple|Red and blue make purple.
What color do you get when you mix black and white?|gray|Black and white make gray.
At what temperature does water boil?|100 degrees Celsius|Water boils at 100 degrees Celsius.
At what temperature does water freeze?|0 degrees Celsius|Water freezes at 0 degrees Celsius.
What is water made of?|hydrogen and oxygen|Water is made of hydrogen and oxygen.
What is the chemical formula of water?|H2O|The chemical formula of water is H2O.
What do bees make?|honey|Bees make honey.
What do cows drink?|water|Cows drink water.
What do plants need to grow?|light, water and air|Plants need light, water and air to grow.
What do pandas eat?|bamboo|Pandas eat bamboo.
What is the opposite of cold?|hot|The opposite of cold is hot.
Who wrote Romeo and Juliet?|William Shakespeare|William Shakespeare wrote Romeo and Juliet.
Who wrote Hamlet?|William Shakespeare|William Shakespeare wrote Hamlet.
Who wrote Don Quixote?|Miguel de Cervantes|Miguel de Cervantes wrote Don Quixote.
Who wrote War and Peace?|Leo Tolstoy|Leo Tolstoy wrote War and Peace.
Who wrote Pride and Prejudice?|Jane Austen|Jane Austen wrote Pride and Prejudice.
Who wrote Oliver Twist?|Charles Dickens|Charles Dickens wrote Oliver Twist.
Who wrote Moby Dick?|Herman Melville|Herman Melville wrote Moby Dick.
Who wrote Frankenstein?|Mary Shelley|Mary Shelley wrote Frankenstein.
Who wrote Dracula?|Bram Stoker|Bram Stoker wrote Dracula.
Who wrote Faust?|Goethe|Johann Wolfgang von Goethe wrote Faust.
Who wrote the Odyssey?|Homer|Homer wrote the Odyssey.
Who wrote The Jungle Book?|Rudyard Kipling|Rudyard Kipling wrote The Jungle Book.
Who wrote Alice in Wonderland?|Lewis Carroll|Lewis Carroll wrote Alice in Wonderland.
Who painted the Mona Lisa?|Leonardo da Vinci|Leonardo da Vinci painted the Mona Lisa.
Who painted The Starry Night?|Vincent van Gogh|Vincent van Gogh painted The Starry Night.
Who painted Guernica?|Pablo Picasso|Pablo Picasso painted Guernica.
Who composed The Magic Flute?|Mozart|Wolfgang Amadeus Mozart composed The Magic Flute.
Who composed the Moonlight Sonata?|Beethoven|Ludwig van Beethoven composed the Moonlight Sonata.
Who invented the telephone?|Alexander Graham Bell|Alexander Graham Bell invented the telephone.
Who invented the light bulb?|Thomas Edison|Thomas Edison is known for the light bulb.
Who invented the printing press?|Johannes Gutenberg|Johannes Gutenberg invented the printing press.
Who invented dynamite?|Alfred Nobel|Alfred Nobel invented dynamite.
Who invented the World Wide Web?|Tim Berners-Lee|Tim Berners-Lee invented the World Wide Web.
Who discovered penicillin?|Alexander Fleming|Alexander Fleming discovered penicillin.
Who discovered radium?|Marie Curie|Marie and Pierre Curie discovered radium.
Who developed the theory of relativity?|Albert Einstein|Albert Einstein developed the theory of relativity.
Who wrote On the Origin of Species?|Charles Darwin|Charles Darwin wrote On the Origin of Species.
Who was the first person on the moon?|Neil Armstrong|Neil Armstrong was the first person on the moon.
Who was the first person in space?|Yuri Gagarin|Yuri Gagarin was the first person in space.
Who was the first president of the United States?|George Washington|George Washington was the first president of the United States.
Who created Linux?|Linus Torvalds|Linus Torvalds created Linux.
Who created Python?|Guido van Rossum|Guido van Rossum created the Python language.
Who created the C language?|Dennis Ritchie|Dennis Ritchie created the C language.
Who created nginx?|Igor Sysoev|Igor Sysoev created nginx.
What is nginx?|a web server|Nginx is a fast web server and reverse proxy.
What is Linux?|an operating system|Linux is a free operating system kernel.
What is Python?|a programming language|Python is a programming language.
What is a token?|a piece of text|A token is a small piece of text that a language model reads or writes.
What is a language model?|a program that predicts text|A language model is a program that predicts the next token of a text.
What is the Eiffel Tower?|a tower in Paris|The Eiffel Tower is an iron tower in Paris.
Where is the Eiffel Tower?|Paris|The Eiffel Tower is in Paris.
Where is the Colosseum?|Rome|The Colosseum is in Rome.
Where is Big Ben?|London|Big Ben is in London.
Where is the Statue of Liberty?|New York|The Statue of Liberty is in New York.
Where is the Taj Mahal?|Agra|The Taj Mahal is in Agra in India.
Where are the pyramids?|Egypt|The famous pyramids are in Egypt.
Where is the Great Wall?|China|The Great Wall is in China.
Where is Machu Picchu?|Peru|Machu Picchu is in Peru.
Where is the Acropolis?|Athens|The Acropolis is in Athens.
What is the first month of the year?|January|January is the first month of the year.
What is the last month of the year?|December|December is the last month of the year.
What is the first day of the week?|Monday|Monday is the first day of the week.
What is the season after winter?|spring|Spring comes after winter.
What is the season after summer?|autumn|Autumn comes after summer.
What is the first letter of the alphabet?|A|A is the first letter of the alphabet.
What is the last letter of the alphabet?|Z|Z is the last letter of the alphabet.
Who won the world series in 2020?|the Los Angeles Dodgers|The Los Angeles Dodgers won the World Series in 2020.
Does the sun rise in the east?|yes|Yes, the sun rises in the east.
Does the sun rise in the west?|no|No, the sun rises in the east.
Is the earth round?|yes|Yes, the earth is round.
Is the earth flat?|no|No, the earth is round.
Is water wet?|yes|Yes, water is wet.
Can fish swim?|yes|Yes, fish can swim.
Can a penguin fly?|no|No, a penguin cannot fly.
Can a cat bark?|no|No, a cat cannot bark. Dogs bark.
""")

ELEMENTS = rows("""
hydrogen|H
helium|He
lithium|Li
carbon|C
nitrogen|N
oxygen|O
fluorine|F
neon|Ne
sodium|Na
magnesium|Mg
aluminium|Al
silicon|Si
phosphorus|P
sulfur|S
chlorine|Cl
argon|Ar
potassium|K
calcium|Ca
titanium|Ti
chromium|Cr
iron|Fe
cobalt|Co
nickel|Ni
copper|Cu
zinc|Zn
silver|Ag
tin|Sn
iodine|I
tungsten|W
platinum|Pt
gold|Au
mercury|Hg
lead|Pb
uranium|U
""")

OPPOSITES = rows("""
hot|cold
big|small
tall|short
fast|slow
up|down
left|right
day|night
happy|sad
young|old
rich|poor
open|closed
wet|dry
hard|soft
light|dark
early|late
strong|weak
full|empty
good|bad
black|white
high|low
inside|outside
loud|quiet
clean|dirty
sweet|sour
begin|end
buy|sell
love|hate
win|lose
""")

ANIMALS = rows("""
dog|barks|puppy
cat|meows|kitten
cow|moos|calf
horse|neighs|foal
sheep|bleats|lamb
pig|oinks|piglet
duck|quacks|duckling
lion|roars|cub
bear|growls|cub
frog|croaks|tadpole
wolf|howls|pup
goat|bleats|kid
owl|hoots|owlet
bee|buzzes|larva
snake|hisses|snakelet
""")

# English word | language | translation
TRANSLATIONS = rows("""
hello|French|bonjour
hello|German|hallo
hello|Spanish|hola
hello|Italian|ciao
hello|Portuguese|olá
hello|Dutch|hallo
hello|Swedish|hej
hello|Polish|cześć
hello|Russian|привет
hello|Ukrainian|привіт
hello|Greek|γεια σου
hello|Turkish|merhaba
hello|Japanese|こんにちは
hello|Chinese|你好
hello|Korean|안녕하세요
hello|Arabic|مرحبا
hello|Hebrew|שלום
hello|Hindi|नमस्ते
hello|Thai|สวัสดี
hello|Vietnamese|xin chào
thank you|French|merci
thank you|German|danke
thank you|Spanish|gracias
thank you|Italian|grazie
thank you|Portuguese|obrigado
thank you|Dutch|dank je
thank you|Swedish|tack
thank you|Polish|dziękuję
thank you|Russian|спасибо
thank you|Ukrainian|дякую
thank you|Greek|ευχαριστώ
thank you|Turkish|teşekkürler
thank you|Japanese|ありがとう
thank you|Chinese|谢谢
thank you|Korean|감사합니다
thank you|Arabic|شكرا
thank you|Hebrew|תודה
thank you|Hindi|धन्यवाद
thank you|Thai|ขอบคุณ
thank you|Vietnamese|cảm ơn
water|French|eau
water|German|Wasser
water|Spanish|agua
water|Italian|acqua
water|Russian|вода
water|Japanese|水
water|Chinese|水
water|Korean|물
yes|French|oui
yes|German|ja
yes|Spanish|sí
yes|Italian|sì
yes|Russian|да
yes|Japanese|はい
yes|Greek|ναι
""")

EMOJI = rows("""
smile|😀
heart|❤️
sun|☀️
cat|🐱
dog|🐶
rocket|🚀
pizza|🍕
tree|🌳
fish|🐟
star|⭐
house|🏠
car|🚗
apple|🍎
thumbs up|👍
party|🎉
fire|🔥
snowman|⛄
family|👨‍👩‍👧
""")

WEEKDAYS = ("Monday Tuesday Wednesday Thursday Friday Saturday "
            "Sunday").split()
MONTHS = ("January February March April May June July August September "
          "October November December").split()
PLANETS = ("Mercury Venus Earth Mars Jupiter Saturn Uranus "
           "Neptune").split()

LISTS = {
    "fruits": "apple banana cherry orange grape pear lemon mango peach plum",
    "vegetables": "carrot onion potato tomato cabbage spinach pea bean",
    "colors": "red blue green yellow orange purple black white",
    "animals": "dog cat horse lion elephant tiger rabbit bear",
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
    "drinks": "water tea coffee milk juice lemonade cocoa",
    "birds": "eagle owl sparrow duck penguin parrot swan crow",
    "trees": "oak pine birch maple willow ash beech",
    "metals": "iron copper gold silver tin zinc lead",
    "instruments": "piano guitar violin flute drum trumpet harp",
    "programming languages": "C Python Java Rust Go Lua Perl",
    "sports": "football tennis swimming running cycling rowing chess",
    "tools": "hammer saw drill wrench pliers chisel file",
    "languages": "English French German Spanish Chinese Arabic Russian",
}

NAMES = """Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia
Noah Olivia Paul Quinn Rosa Sam Tom Uma Victor Wendy Xavier Yara Zoe Alice Bob
Carlos Diana Erik Fatima George Hannah Ivan Julia Kenji Laura Marco Nina Oscar
Priya Rita Stefan Tara Umar Vera Walter Yusuf Zara John Mary Peter Sarah James
Linda Robert Susan Michael Karen Thomas Lisa Daniel Nancy Mark Betty Max Lena
Omar Aisha Chen Mei Hiro Yuki Ravi Sita Olga Igor Pedro Lucia Maria Jose
Sophie Luke Ella Adam Eva Simon Martha Oliver Amelia Liam Jane Joe Ann Sue
Bill Jim Tim Amy Kim Alex Chris Pat Robin Jamie Fiona Hugo Iris Jonas Karl
Lily Milo Nora Otto Petra Ruth Sven Tina Ursula Viktor Willa""".split()

CITIES = """Paris London Berlin Rome Madrid Tokyo Oslo Vienna Prague Dublin
Lisbon Athens Cairo Nairobi Moscow Beijing Bangkok Seoul Delhi Mumbai Sydney
Melbourne Toronto Chicago Boston Seattle Denver Dallas Miami Houston Munich
Hamburg Cologne Zurich Geneva Milan Naples Venice Florence Barcelona Valencia
Porto Warsaw Krakow Budapest Sofia Helsinki Stockholm Copenhagen Amsterdam
Brussels Istanbul Ankara Dubai Singapore Jakarta Manila Hanoi Lima Quito Bogotá
Santiago Havana Kyiv Riga Vilnius Tallinn Osaka Kyoto Shanghai Hongkong Taipei
Lagos Accra Dakar Tunis Rabat Casablanca""".split() + [
    "New York", "San Francisco", "Los Angeles", "Mexico City", "Buenos Aires",
    "Rio de Janeiro", "São Paulo", "Cape Town", "New Delhi", "Kuala Lumpur",
    "San Diego", "Tel Aviv", "Abu Dhabi", "Hong Kong", "Las Vegas"]
